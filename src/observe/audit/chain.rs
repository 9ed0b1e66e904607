//! The lines of an audit file, each bound to the one before it, and how a chain is verified.
//!
//! ```text
//!  {"line":7,"previous":"<hash of line 6>","cluster":…,"index":…,"more":1,"action":…,…,"hash":"<of all up to here>"}
//! ```
//! `index` is the entry of that cluster's log, and `more` how many lines of the same entry follow.
//! The hash is SHA-256 over the bytes of the line before `,"hash"`, in hexadecimal digits. A chain
//! shows that a line was changed, removed or put in; who can write the file can also compute it anew
//! from there on. What that person cannot change are the files of the other nodes, and the last hash
//! where it was written down elsewhere.

use std::fmt::Write as _;
use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::observe::audit::record::Record;

/// What the first line of a chain names as the one before it.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Above the longest line: names, owners and reasons are bounded, and 64 locks may be asked for at
/// once.
pub(super) const LINE_BYTES_MAX: usize = 256 * 1024;

const HASH: &str = ",\"hash\":\"";

/// Entries of the log, first and last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Gap {
    pub(super) fn entries(self) -> u64 {
        self.to.saturating_sub(self.from).saturating_add(1)
    }

    /// One that covers both.
    pub(super) fn with(self, other: Option<Self>) -> Self {
        other.map_or(self, |other| Self {
            from: self.from.min(other.from),
            to: self.to.max(other.to),
        })
    }
}

/// Where a chain stands: what the next line follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Lines so far.
    pub line: u64,
    /// The cluster whose log they tell of; empty before the first line.
    pub cluster: String,
    /// Index of the log entry of the last of them.
    pub index: u64,
    /// Lines of that entry which are to follow.
    pub more: u64,
    /// Its hash.
    pub hash: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { line: 0, cluster: String::new(), index: 0, more: 0, hash: NOTHING.to_owned() }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    line: u64,
    previous: &'a str,
    cluster: &'a str,
    index: u64,
    #[serde(skip_serializing_if = "is_zero")]
    more: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    wall_ms: Option<u64>,
    #[serde(flatten)]
    record: &'a Record,
}

/// What is read of a line.
#[derive(Deserialize)]
struct Read {
    line: u64,
    previous: String,
    /// Lines of early builds name none; what follows is then that of another cluster.
    #[serde(default)]
    cluster: String,
    index: u64,
    #[serde(default)]
    more: u64,
    action: String,
    hash: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(more: &u64) -> bool {
    *more == 0
}

/// Where a line stands beside its chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) cluster: &'a str,
    pub(super) index: u64,
    /// Lines of the same entry that follow.
    pub(super) more: u64,
    pub(super) wall_ms: Option<u64>,
}

fn hash(text: &str) -> String {
    let digits = Sha256::digest(text.as_bytes());
    digits.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

impl Head {
    /// Adds a line to the text, and stands behind it.
    pub(super) fn append(&mut self, text: &mut String, place: Place<'_>, record: &Record) {
        let number = self.line.saturating_add(1);
        let Place { cluster, index, more, wall_ms } = place;
        let previous = &self.hash;
        let line = Body { line: number, previous, cluster, index, more, wall_ms, record };
        // A structure of texts and numbers always has a form in JSON.
        let mut body = serde_json::to_string(&line).unwrap_or_default();
        body.pop();
        let (cluster, hash) = (cluster.to_owned(), hash(&body));
        *self = Self { line: number, cluster, index, more, hash };
        text.push_str(&body);
        text.push_str(HASH);
        text.push_str(&self.hash);
        text.push_str("\"}\n");
    }

    /// The last entry of that cluster all of whose lines are there.
    pub(super) fn whole(&self, cluster: &str) -> u64 {
        if self.cluster != cluster {
            return 0;
        }
        self.index.saturating_sub(u64::from(self.more > 0))
    }

    /// The head behind a line, whatever came before it; the error says what is wrong with the line.
    pub(super) fn behind(line: &str) -> Result<(Self, String, String), String> {
        let read: Read = serde_json::from_str(line)
            .map_err(|error| format!("it is not a line of an audit file: {error}"))?;
        let body = line.rsplit_once(HASH).map_or("", |(body, _)| body);
        if hash(body) != read.hash {
            return Err("it was changed: its hash is not that of its text".to_owned());
        }
        let Read { line, previous, cluster, index, more, action, hash } = read;
        Ok((Self { line, cluster, index, more, hash }, previous, action))
    }
}

/// What a whole file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Number of its first line; 0 for an empty file.
    pub first_line: u64,
    /// Where its chain ends.
    pub head: Head,
    /// Lines that say that something is missing.
    pub gaps: u64,
    /// How often the next line tells of another cluster.
    pub changes_of_cluster: u64,
}

/// The first line that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Counted from 1 within the file.
    pub line_in_file: u64,
    /// What is wrong with it.
    pub why: String,
}

/// Verifies a file line by line. `before` is the end of the file that was rotated away before it;
/// without it the first line may follow any.
pub fn verify(
    mut file: impl BufRead,
    before: Option<&Head>,
) -> io::Result<Result<Verified, Broken>> {
    let mut head = before.cloned();
    let mut verified =
        Verified { first_line: 0, head: Head::default(), gaps: 0, changes_of_cluster: 0 };
    let (mut line_in_file, mut line) = (0, String::new());
    loop {
        line.clear();
        let mut bounded = io::Read::take(&mut file, LINE_BYTES_MAX as u64);
        let read = match bounded.read_line(&mut line) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let why = "it is not text".to_owned();
                return Ok(Err(Broken { line_in_file: line_in_file + 1, why }));
            }
            read => read?,
        };
        if read == 0 {
            verified.head = head.unwrap_or_default();
            return Ok(Ok(verified));
        }
        line_in_file += 1;
        match follow(head.as_ref(), &line) {
            Ok((next, action)) => {
                if line_in_file == 1 {
                    verified.first_line = next.line;
                }
                verified.gaps += u64::from(action == "gap");
                let changed = head.as_ref().is_some_and(|head| head.cluster != next.cluster);
                verified.changes_of_cluster += u64::from(changed);
                head = Some(next);
            }
            Err(why) => return Ok(Err(Broken { line_in_file, why })),
        }
    }
}

fn follow(head: Option<&Head>, line: &str) -> Result<(Head, String), String> {
    let line = line.strip_suffix('\n').ok_or("it is cut off")?;
    let (next, previous, action) = Head::behind(line)?;
    let begins = Head::default();
    let expected = head.or((next.line == 1).then_some(&begins));
    if let Some(head) = expected {
        if next.line != head.line.saturating_add(1) {
            return Err(format!("it is number {}, and {} was due", next.line, head.line + 1));
        }
        if previous != head.hash {
            return Err("it follows another line than the one before it".to_owned());
        }
    }
    Ok((next, action))
}
