//! The file itself: opened at its end, followed when it is rotated, gone on with after an error.
//!
//! A line is given to the operating system before the next one is begun: it survives the end of the
//! process. Nothing is synced, because a sync would make locks wait for the same disk; what a loss of
//! power took is known by the index of the last line, and becomes a gap. An entry whose lines are not
//! all there is written once more, or is part of the gap.
//!
//! The last line stands once more in a small file beside it. A run that finds no lines, because the file
//! was rotated away just before the end of the last run, goes on from there; one that finds fewer
//! says how many are gone.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::observe::audit::chain::{Gap, Head, LINE_BYTES_MAX, Place};
use crate::observe::audit::record::Record;

/// The index of what is of no entry: it is where the line before it is.
pub(super) const AS_BEFORE: u64 = u64::MAX;

/// The lines of one entry, and the entries before it that have none.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) index: u64,
    pub(super) wall_ms: Option<u64>,
    pub(super) missing: Option<Gap>,
    pub(super) records: Vec<Record>,
}

/// An audit file and the chain in it.
pub(super) struct AuditFile {
    path: PathBuf,
    cluster: String,
    /// None after an error, until the next write.
    file: Option<File>,
    /// Holds the last line; what stands behind its end is of longer ones before.
    last: File,
    head: Head,
    /// Lines, first and last, that an earlier run wrote and that are not in the file.
    lost: Option<(u64, u64)>,
    /// Entries whose lines could not be written.
    missing: Option<Gap>,
}

impl AuditFile {
    /// Opens the file, creates it if need be, and finds the end of its chain.
    pub(super) fn open(path: &Path, cluster_id: u128) -> io::Result<Self> {
        let (path, cluster) = (path.to_owned(), format!("{cluster_id:032x}"));
        let mut last = OpenOptions::new();
        let last = last.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut last = last.open(beside(&path))?;
        let kept = kept(&mut last)?;
        let head = Head::default();
        let mut it = Self { path, cluster, file: None, last, head, lost: None, missing: None };
        it.reopen()?;
        match kept {
            Some(kept) if it.head.line == 0 => it.head = kept,
            Some(kept) if it.head.line < kept.line => {
                it.lost = Some((it.head.line + 1, kept.line));
            }
            Some(_) | None => {}
        }
        Ok(it)
    }

    /// The last entry of this cluster's log that has all its lines. Of another cluster, whose file
    /// this was before, nothing counts.
    pub(super) fn index(&self) -> u64 {
        self.head.whole(&self.cluster)
    }

    /// Says that a run begins with the log applied up to there; returns what is missing before it.
    pub(super) fn begin(&mut self, applied: u64) -> io::Result<Option<Gap>> {
        let (begun, last) = (self.head.cluster == self.cluster, self.index());
        let missing = (begun && applied > last).then_some(Gap { from: last + 1, to: applied });
        let gone = self.lost.take().map(|(from, to)| Record::lost(from, to));
        let records = gone.into_iter().chain([Record::began()]).collect();
        let index = applied.max(last);
        self.write(&[Batch { index, wall_ms: None, missing, records }])?;
        Ok(missing)
    }

    /// Writes all lines, or says why not; then the next write tells what is missing.
    pub(super) fn write(&mut self, batches: &[Batch]) -> io::Result<u64> {
        let written = self.try_write(batches);
        if written.is_err() {
            // What of it reached the file is found out when it is opened again.
            self.file = None;
            let at = |index| if index == AS_BEFORE { self.index() } else { index };
            let indices = || batches.iter().map(|batch| at(batch.index));
            if let (Some(from), Some(to)) = (indices().min(), indices().max()) {
                let gap = batches.iter().fold(Gap { from, to }, |gap, it| gap.with(it.missing));
                self.missing = Some(gap.with(self.missing));
            }
        }
        written
    }

    fn try_write(&mut self, batches: &[Batch]) -> io::Result<u64> {
        if self.file.is_none() || self.is_rotated()? {
            self.reopen()?;
        }
        let (mut head, mut text) = (self.head.clone(), String::new());
        let at = |index| Place { cluster: &self.cluster, index, more: 0, wall_ms: None };
        if let Some(gap) = self.missing {
            let place = at(self.index());
            head.append(&mut text, place, &Record::gap(gap.from, gap.to));
        }
        for batch in batches {
            if let Some(gap) = batch.missing {
                head.append(&mut text, at(gap.to), &Record::gap(gap.from, gap.to));
            }
            let index = match batch.index {
                AS_BEFORE => head.whole(&self.cluster),
                index => index,
            };
            for (more, record) in (0..batch.records.len() as u64).rev().zip(&batch.records) {
                let place = Place { more, wall_ms: batch.wall_ms, ..at(index) };
                head.append(&mut text, place, record);
            }
        }
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        file.write_all(text.as_bytes())?;
        let last = text.trim_end().rsplit('\n').next().unwrap_or_default();
        self.last.write_all_at(format!("{last}\n").as_bytes(), 0)?;
        let lines = head.line.saturating_sub(self.head.line);
        (self.head, self.missing) = (head, None);
        Ok(lines)
    }

    /// Whether the path names another file by now, or none.
    fn is_rotated(&self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(true) };
        let ours = file.metadata()?;
        match std::fs::metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) != (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// A file with lines is gone on with; in an empty one the chain goes on from where it stands.
    fn reopen(&mut self) -> io::Result<()> {
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)?;
        if let Some(head) = end_of(&mut file, &self.path)? {
            self.head = head;
        }
        self.file = Some(file);
        Ok(())
    }
}

/// Where the last line is kept.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".last");
    name.into()
}

/// The head behind the line that is kept; none if it was torn.
fn kept(last: &mut File) -> io::Result<Option<Head>> {
    let mut text = Vec::new();
    last.take(LINE_BYTES_MAX as u64).read_to_end(&mut text)?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(Head::behind(&String::from_utf8_lossy(line)).ok().map(|(head, _, _)| head))
}

/// The head behind the last whole line; half a line after it was never finished, and is cut off.
fn end_of(file: &mut File, path: &Path) -> io::Result<Option<Head>> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(2 * LINE_BYTES_MAX as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < tail.len() {
        tracing::warn!(path = %path.display(), bytes = tail.len() - whole,
            "cutting off a line of the audit file that was not finished");
        file.set_len(from + whole as u64)?;
    }
    let Some(lines) = tail[..whole].strip_suffix(b"\n") else { return Ok(None) };
    let begins = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = String::from_utf8_lossy(&lines[begins..]);
    let (head, _, _) = Head::behind(&line).map_err(|why| {
        io::Error::other(format!(
            "the last line of {} cannot be gone on from: {why}; move the file away to begin another",
            path.display()
        ))
    })?;
    Ok(Some(head))
}
