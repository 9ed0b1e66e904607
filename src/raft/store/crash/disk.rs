//! What a power cut may leave: everything synced, and of the rest any of the sets below.
//!
//! The model is harsher than most disks: a sync of a file does not save its name, calls survive in
//! any order, a write tears between any two sectors with either side lost. It is milder in two
//! ways: a sector is old or new, never garbage, and what a sync returned for is on the disk.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::recorder::{Call, Content, Image, Trace};

/// Where writes tear: the sector of a disk, and a page of the system.
const TEAR_BYTES: [usize; 2] = [512, 4096];

/// What survives of the unsynced calls, which are numbered from 0 in the order they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Survival {
    Nothing,
    All,
    /// The first so many.
    Prefix(usize),
    /// All before that write, and its bytes on one side of the cut.
    Torn {
        write: usize,
        cut: usize,
        side: Side,
    },
    /// All before that write; the file is as long as after it and has zeros for its bytes.
    Hollow(usize),
    Only(usize),
    Without(usize),
    /// Writes, and no name.
    Data,
    /// Names, and no write.
    Names,
    /// All writes, and the first so many changes of names.
    DataAndNames(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Before,
    Behind,
}

/// A file is renamed within its directory.
fn is_name_below(call: &Call, prefix: &str) -> bool {
    match call {
        Call::Create { name, .. } | Call::Remove { name } | Call::Rename { to: name, .. } => {
            name.starts_with(prefix)
        }
        Call::Write { .. } | Call::Sync { .. } | Call::SyncDir { .. } => false,
    }
}

/// The disk at one moment of a trace.
pub(super) struct Moment<'a> {
    synced: Content,
    unsynced: Vec<&'a Call>,
}

fn is_write(call: &Call) -> bool {
    matches!(call, Call::Write { .. })
}

impl<'a> Moment<'a> {
    /// After the first `count` calls of the trace.
    pub(super) fn after(trace: &'a Trace, count: usize) -> Self {
        let mut moment = Self { synced: Content::of(&trace.start), unsynced: Vec::new() };
        for call in &trace.calls[..count] {
            moment.take(call);
        }
        moment
    }

    /// Takes the next call.
    pub(super) fn take(&mut self, call: &'a Call) {
        let saved = |pending: &Call| match call {
            Call::Sync { file } => {
                matches!(pending, Call::Write { file: written, .. } if file == written)
            }
            Call::SyncDir { prefix } => is_name_below(pending, prefix),
            Call::Create { .. }
            | Call::Write { .. }
            | Call::Rename { .. }
            | Call::Remove { .. } => false,
        };
        match call {
            Call::Sync { .. } | Call::SyncDir { .. } => {
                let unsynced = std::mem::take(&mut self.unsynced);
                let (now, later): (Vec<_>, Vec<_>) =
                    unsynced.into_iter().partition(|pending| saved(pending));
                for call in now {
                    self.synced.apply(call);
                }
                self.unsynced = later;
            }
            Call::Create { .. }
            | Call::Write { .. }
            | Call::Rename { .. }
            | Call::Remove { .. } => {
                self.unsynced.push(call);
            }
        }
    }

    /// All sets to be tried, in a fixed order.
    pub(super) fn survivals(&self) -> Vec<Survival> {
        let count = self.unsynced.len();
        let mut all = vec![Survival::Nothing];
        if count == 0 {
            return all;
        }
        all.push(Survival::All);
        all.extend((1..count).map(Survival::Prefix));
        for (at, call) in self.unsynced.iter().enumerate() {
            if let Call::Write { offset, bytes, .. } = call {
                all.push(Survival::Hollow(at));
                for cut in cuts(*offset, bytes) {
                    let torn = |side| Survival::Torn { write: at, cut, side };
                    all.extend([torn(Side::Before), torn(Side::Behind)]);
                }
            }
        }
        if count > 1 {
            all.extend((0..count).flat_map(|at| [Survival::Only(at), Survival::Without(at)]));
            let names = self.unsynced.iter().filter(|call| !is_write(call)).count();
            all.extend([Survival::Data, Survival::Names]);
            all.extend((1..names).map(Survival::DataAndNames));
        }
        all
    }

    /// The directory that is found after the cut.
    pub(super) fn image(&self, survival: Survival) -> Image {
        let mut content = self.synced.clone();
        let mut names = 0;
        for (at, call) in self.unsynced.iter().enumerate() {
            names += usize::from(!is_write(call));
            let survives = match survival {
                Survival::Nothing => false,
                Survival::All => true,
                Survival::Prefix(first) => at < first,
                Survival::Torn { write, .. } | Survival::Hollow(write) => at < write,
                Survival::Only(one) => at == one,
                Survival::Without(one) => at != one,
                Survival::Data => is_write(call),
                Survival::Names => !is_write(call),
                Survival::DataAndNames(first) => is_write(call) || names <= first,
            };
            if survives {
                content.apply(call);
            }
        }
        let partly = if let Survival::Torn { write, cut, side } = survival {
            Some((write, Some((cut, side))))
        } else if let Survival::Hollow(write) = survival {
            Some((write, None))
        } else {
            None
        };
        if let Some((write, part)) = partly
            && let Some(Call::Write { file, offset, bytes }) = self.unsynced.get(write)
        {
            // The length may be saved before the bytes are.
            content.write(*file, offset + bytes.len(), &[]);
            match part {
                None => {}
                Some((cut, Side::Before)) => content.write(*file, *offset, &bytes[..cut - offset]),
                Some((cut, Side::Behind)) => content.write(*file, cut, &bytes[cut - offset..]),
            }
        }
        content.image()
    }

    /// The images of all survivals without those that were seen already, with the number of each.
    pub(super) fn images(&self) -> impl Iterator<Item = (usize, Survival, Image)> {
        let mut seen = BTreeSet::new();
        self.survivals().into_iter().enumerate().filter_map(move |(number, survival)| {
            let image = self.image(survival);
            let mut hasher = DefaultHasher::new();
            image.hash(&mut hasher);
            seen.insert(hasher.finish()).then_some((number, survival, image))
        })
    }
}

/// Places inside a write at which it may tear. One that writes zeros tears at pages only.
fn cuts(offset: usize, bytes: &[u8]) -> BTreeSet<usize> {
    let blank = bytes.iter().all(|byte| *byte == 0);
    let sizes = if blank { &TEAR_BYTES[1..] } else { &TEAR_BYTES[..] };
    let places = |size: &usize| {
        let size = *size;
        (offset / size + 1..).map(move |at| at * size)
    };
    let end = offset + bytes.len();
    sizes.iter().flat_map(|size| places(size).take_while(|at| *at < end)).collect()
}
