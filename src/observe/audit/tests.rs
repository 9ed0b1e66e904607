//! The chain, restarts, rotation, and what happens when lines cannot be written.

use std::fs;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use oarlock_core::command::{Command, Entry, LEVEL};
use oarlock_core::ids::{LockName, Reason};
use oarlock_core::machine::{Applied, Machine};
use oarlock_core::time::LeaseTime;

use super::Audit;
use super::chain::{Broken, Head, Verified, verify};
use crate::observe::metrics::Metrics;
use crate::service::called::{Called, End};
use crate::service::error::ServiceError;
use crate::service::observer::Told;

const CLUSTER: u128 = 7;

fn forced(name: &str) -> (Entry, Applied) {
    let command = Command::ForceRelease {
        name: LockName::new(name).expect("a name"),
        target: oarlock_core::command::ForceTarget::All,
        reason: Reason::new("it hangs").expect("a reason"),
        lock_delay: None,
    };
    let entry = Entry { level: LEVEL, wall_ms: 7, commands: vec![(LeaseTime(1), command)] };
    let applied = Machine::new().apply(&entry).expect("its level is known");
    (entry, applied)
}

fn tell(audit: &Audit, indices: impl IntoIterator<Item = u64>) {
    for index in indices {
        let (entry, applied) = forced(&format!("lock/{index}"));
        audit.tell(index, &Told::Commands(&entry, &applied));
    }
}

fn start(path: &Path, applied: u64) -> Arc<Audit> {
    start_in(CLUSTER, path, applied)
}

fn start_in(cluster_id: u128, path: &Path, applied: u64) -> Arc<Audit> {
    Audit::start(path, cluster_id, applied, Metrics::new()).expect("it starts")
}

fn judge(path: &Path, before: Option<&Head>) -> Result<Verified, Broken> {
    let file = fs::File::open(path).expect("it is there");
    verify(BufReader::new(file), before).expect("it can be read")
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).expect("it is there");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn actions(path: &Path) -> Vec<String> {
    lines(path).iter().map(|line| line["action"].as_str().unwrap_or("?").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_goes_on_over_restarts_and_skips_what_it_has() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit");
    let audit = start(&path, 0);
    tell(&audit, 1..=3);
    audit.finish().await;
    // Entries 2 and 3 are applied again, because the state on disk was behind.
    let audit = start(&path, 1);
    tell(&audit, 2..=4);
    audit.finish().await;
    let expected = ["began", "forced", "forced", "forced", "stopped", "began", "forced", "stopped"];
    assert_eq!(actions(&path), expected);
    let verified = judge(&path, None).expect("it is whole");
    assert_eq!((verified.first_line, verified.head.line, verified.head.index), (1, 8, 4));
    assert_eq!(verified.gaps, 0);
    let line = &lines(&path)[1];
    assert_eq!((&line["lock"], &line["reason"]), (&"lock/1".into(), &"it hangs".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_missing_or_added_line_is_the_first_broken_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit");
    let audit = start(&path, 0);
    tell(&audit, 1..=4);
    audit.finish().await;
    let text = fs::read_to_string(&path).expect("it is there");
    let all: Vec<&str> = text.lines().collect();
    let broken_at = |text: String| {
        let other = dir.path().join("other");
        fs::write(&other, text).expect("written");
        judge(&other, None).expect_err("it is broken").line_in_file
    };
    for (at, byte) in text.bytes().enumerate() {
        let other = if byte == b'1' { b'2' } else { b'1' };
        let mut bytes = text.clone().into_bytes();
        bytes[at] = other;
        let line = text[..at].matches('\n').count() as u64 + 1;
        let found = broken_at(String::from_utf8(bytes).expect("text"));
        assert_eq!(found, line, "byte {at}");
    }
    let joined = |lines: Vec<&str>| lines.join("\n") + "\n";
    assert_eq!(broken_at(joined([&all[..2], &all[3..]].concat())), 3, "one is missing");
    assert_eq!(broken_at(joined([&all[..2], &all[1..]].concat())), 3, "one is there twice");
    assert_eq!(broken_at(text.trim_end().to_owned()), all.len() as u64, "its end is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_rotated_by_rename_is_followed_by_one_that_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, old) = (dir.path().join("audit"), dir.path().join("audit.1"));
    let audit = start(&path, 0);
    tell(&audit, 1..=2);
    // What is queued is written before the next entry is told, because finishing waits for it.
    audit.finish().await;
    let audit = start(&path, 2);
    fs::rename(&path, &old).expect("rotated");
    tell(&audit, 3..=4);
    audit.finish().await;
    let first = judge(&old, None).expect("it is whole");
    let second = judge(&path, Some(&first.head)).expect("it goes on");
    assert_eq!(second.first_line, first.head.line + 1);
    let wrong = Head { hash: "0".repeat(64), ..first.head };
    assert_eq!(judge(&path, Some(&wrong)).expect_err("another chain").line_in_file, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_before_a_crash_hides_no_missing_tail() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, old) = (dir.path().join("audit"), dir.path().join("audit.1"));
    let audit = start(&path, 0);
    tell(&audit, 1..=2);
    audit.finish().await;
    fs::rename(&path, &old).expect("rotated");
    // The log was applied up to 9 when the process ended, before the first line of the next file.
    let audit = start(&path, 9);
    tell(&audit, [10]);
    audit.finish().await;
    let first = judge(&old, None).expect("it is whole");
    let second = judge(&path, Some(&first.head)).expect("it goes on");
    assert_eq!((second.first_line, second.gaps), (first.head.line + 1, 1));
    assert_eq!(lines(&path)[0]["detail"], "entries 3 to 9 may lack lines");

    // Without its tail the first file does not lead to the second.
    let text = fs::read_to_string(&old).expect("it is there");
    let cut = text.trim_end().rfind('\n').expect("two lines") + 1;
    fs::write(&old, &text[..cut]).expect("written");
    let cut = judge(&old, None).expect("it is whole in itself");
    let broken = judge(&path, Some(&cut.head)).expect_err("something is between them");
    assert!(broken.line_in_file == 1 && broken.why.contains("was due"), "{broken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_were_written_and_are_gone_are_told_by_the_next_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit");
    let audit = start(&path, 0);
    tell(&audit, 1..=3);
    audit.finish().await;
    let text = fs::read_to_string(&path).expect("it is there");
    let two: Vec<&str> = text.lines().take(2).collect();
    fs::write(&path, two.join("\n") + "\n").expect("written");
    // The log is where that tail would have it, so that no index shows it.
    start(&path, 1).finish().await;
    let verified = judge(&path, None).expect("it is whole");
    assert_eq!(verified.gaps, 1);
    assert_eq!(lines(&path)[2]["detail"], "lines 3 to 5 were written and are gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_line_is_cut_off_and_what_a_crash_took_is_a_gap() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit");
    let audit = start(&path, 0);
    tell(&audit, 1..=2);
    audit.finish().await;
    let whole = fs::read_to_string(&path).expect("it is there");
    fs::write(&path, format!("{whole}{{\"line\":5,\"prev")).expect("written");
    // The log was applied up to 9 when the process ended.
    let audit = start(&path, 9);
    tell(&audit, [10]);
    audit.finish().await;
    let verified = judge(&path, None).expect("it is whole");
    assert_eq!(verified.gaps, 1);
    let gap = lines(&path).into_iter().find(|line| line["action"] == "gap").expect("a gap");
    assert_eq!(gap["detail"], "entries 3 to 9 may lack lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_instead_of_entries_is_a_gap() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit");
    let audit = start(&path, 0);
    tell(&audit, [1]);
    audit.tell(500, &Told::Nothing);
    tell(&audit, [501]);
    audit.finish().await;
    assert_eq!(actions(&path), ["began", "forced", "gap", "forced", "stopped"]);
    assert_eq!(lines(&path)[2]["detail"], "entries 2 to 499 may lack lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_write_is_told_and_made_up_for_by_a_gap() {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).expect("made");
    let path = folder.join("audit");
    let mut file = super::file::AuditFile::open(&path, CLUSTER).expect("it opens");
    assert_eq!(file.begin(0).expect("written"), None);
    let batch = |index| super::file::Batch {
        index,
        wall_ms: None,
        missing: None,
        records: vec![super::record::Record::began()],
    };
    // The folder is gone: there is no file to go on with.
    fs::rename(&folder, dir.path().join("away")).expect("moved");
    file.write(&[batch(1)]).expect_err("nowhere to write");
    file.write(&[batch(2), batch(3)]).expect_err("nowhere to write");
    fs::rename(dir.path().join("away"), &folder).expect("moved back");
    assert_eq!(file.write(&[batch(4)]).expect("written"), 2);
    assert_eq!(actions(&path), ["began", "gap", "began"]);
    assert_eq!(lines(&path)[1]["detail"], "entries 1 to 3 may lack lines");
    judge(&path, None).expect("it is whole");
}

/// One whose queue the test writes by itself.
fn heard_by(queue: tokio::sync::mpsc::Sender<super::file::Batch>) -> Audit {
    let (queue, waiting, writer) = (Some(queue), Arc::default(), None);
    let heard = super::Heard { queue, waiting, writer, written: 0, next: 1, missing: None };
    let calls = std::sync::Mutex::default();
    Audit { told: std::sync::Mutex::new(heard), calls, metrics: Metrics::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_leaves_lines_out_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit");
    let (queue, mut waiting) = tokio::sync::mpsc::channel(2);
    let audit = heard_by(queue);
    // Nobody takes from the queue: the third and fourth are left out, without waiting.
    tell(&audit, 1..=4);
    let mut file = super::file::AuditFile::open(&path, CLUSTER).expect("it opens");
    let first = waiting.recv().await.expect("the first");
    file.write(&[first]).expect("written");
    tell(&audit, [5]);
    waiting.close();
    while let Some(batch) = waiting.recv().await {
        file.write(&[batch]).expect("written");
    }
    assert_eq!(actions(&path), ["forced", "forced", "gap", "forced"]);
    assert_eq!(lines(&path)[2]["detail"], "entries 3 to 4 may lack lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_bounded_in_lines_and_one_that_is_larger_by_itself_passes_alone() {
    let (queue, mut waiting) = tokio::sync::mpsc::channel(100);
    let audit = heard_by(queue);
    let entry = |index: u64, lines: usize| {
        let names = (0..lines).map(|line| format!("lock/{line}"));
        let (entries, applied): (Vec<_>, Vec<_>) = names.map(|name| forced(&name)).unzip();
        let commands = entries.into_iter().flat_map(|entry| entry.commands).collect();
        let outcomes = applied.into_iter().flat_map(|applied| applied.outcomes).collect();
        let entry = Entry { level: LEVEL, wall_ms: 7, commands };
        let applied = Applied { outcomes, ..Applied::default() };
        audit.tell(index, &Told::Commands(&entry, &applied));
    };
    let more_than_fits = super::QUEUE_LINES_MAX + 1;
    entry(1, more_than_fits);
    entry(2, 1);
    let first = waiting.recv().await.expect("the first");
    assert_eq!((first.index, first.records.len()), (1, more_than_fits));
    audit.heard().waiting.fetch_sub(more_than_fits, std::sync::atomic::Ordering::Relaxed);
    entry(3, 1);
    entry(4, more_than_fits);
    entry(5, 1);
    let taken = [waiting.recv().await, waiting.recv().await].map(|it| it.expect("one more"));
    let told = taken.map(|batch| (batch.index, batch.missing.map(|gap| (gap.from, gap.to))));
    assert_eq!(told, [(3, Some((2, 2))), (5, Some((4, 4)))]);
    assert!(waiting.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_cluster_is_gone_on_with_and_swallows_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit");
    let audit = start(&path, 0);
    tell(&audit, 1..=9);
    audit.finish().await;
    // The machine became part of another cluster, whose log begins anew.
    let audit = start_in(8, &path, 0);
    tell(&audit, 1..=2);
    audit.finish().await;
    let told: Vec<(String, u64)> = lines(&path)
        .iter()
        .filter(|line| line["action"] == "forced")
        .map(|line| (line["cluster"].as_str().unwrap_or("?").to_owned(), line["index"].as_u64()))
        .map(|(cluster, index)| (cluster, index.expect("an index")))
        .collect();
    let of = |cluster: u128, upto| (1..=upto).map(move |index| (format!("{cluster:032x}"), index));
    assert_eq!(told, of(CLUSTER, 9).chain(of(8, 2)).collect::<Vec<_>>());
    let verified = judge(&path, None).expect("it is whole");
    assert_eq!((verified.gaps, verified.changes_of_cluster), (0, 1));
    assert_eq!(verified.head.cluster, format!("{:032x}", 8));
}

/// An entry of three commands, each of which has a line.
fn tell_three(audit: &Audit, index: u64) {
    let (mut entry, mut applied) = forced("lock/one");
    for name in ["lock/two", "lock/three"] {
        let (more, did) = forced(name);
        entry.commands.extend(more.commands);
        applied.outcomes.extend(did.outcomes);
    }
    audit.tell(index, &Told::Commands(&entry, &applied));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_whose_lines_are_not_all_there_is_written_again_or_is_part_of_the_gap() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit");
    let audit = start(&path, 0);
    tell(&audit, [1]);
    tell_three(&audit, 2);
    audit.finish().await;
    let text = fs::read_to_string(&path).expect("it is there");
    let all: Vec<&str> = text.lines().collect();
    assert_eq!(actions(&path), ["began", "forced", "forced", "forced", "forced", "stopped"]);
    // The process ended after each of the lines, and in the middle of the next.
    for (kept, whole) in [(3, 1), (4, 1), (5, 2)] {
        let torn = format!("{}\n{}", all[..kept].join("\n"), &all[kept][..10]);
        for applied in [1, 2] {
            fs::write(&path, &torn).expect("written");
            fs::remove_file(dir.path().join("audit.last")).expect("as if it were behind, too");
            let audit = start(&path, applied);
            if applied == 1 {
                tell_three(&audit, 2);
            }
            audit.finish().await;
            let verified = judge(&path, None).expect("it is whole");
            let after = actions(&path).split_off(kept);
            let expected = match (whole, applied) {
                (1, 1) => vec!["began", "forced", "forced", "forced", "stopped"],
                (1, _) => vec!["gap", "began", "stopped"],
                _ => vec!["began", "stopped"],
            };
            assert_eq!(after, expected, "{kept} lines kept, applied up to {applied}");
            assert_eq!(verified.gaps, u64::from(expected[0] == "gap"));
        }
    }
}

#[test]
fn a_file_that_is_not_ours_is_not_gone_on_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit");
    fs::write(&path, "somebody else's notes\n").expect("written");
    let refused = super::file::AuditFile::open(&path, CLUSTER).err().expect("it is refused");
    assert!(refused.to_string().contains("move the file away"), "{refused}");
}

/// A call of somebody, which was answered by this error.
fn call(audit: &Audit, identity: &str, is_known: bool, error: &ServiceError, wall_ms: u64) {
    let end = End::Failed(error);
    let identity = identity.to_owned();
    audit.called(&Called { identity, is_known, asked: "acquire", locks: &[], end }, wall_ms);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_stand_in_the_chain_where_they_came_and_strangers_fill_no_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit");
    let audit = start(&path, 0);
    assert!(audit.is_on() && !Audit::off(Metrics::new()).is_on());
    let denied = ServiceError::Forbidden("`ci` lacks the right".to_owned());
    tell(&audit, [1]);
    call(&audit, "ci/7", true, &denied, 5_000);
    tell(&audit, [2]);
    call(&audit, "ci/7", true, &ServiceError::NoLeader, 5_000);
    for _ in 0..1_000 {
        call(&audit, "anonymous", false, &denied, 5_000);
    }
    call(&audit, "anonymous", false, &denied, 6_000);
    audit.finish().await;
    let verified = judge(&path, None).expect("it is whole");
    assert_eq!((verified.gaps, verified.head.index), (1, 2));
    let told: Vec<(String, String, String, u64)> = lines(&path)
        .iter()
        .map(|line| {
            let text = |field: &str| line[field].as_str().unwrap_or("").to_owned();
            let index = line["index"].as_u64().expect("an index");
            (text("action"), text("identity"), text("detail"), index)
        })
        .collect();
    let line = |action: &str, identity: &str, detail: &str, index| {
        (action.to_owned(), identity.to_owned(), detail.to_owned(), index)
    };
    assert_eq!(told[2], line("denied", "ci/7", "acquire: forbidden", 1));
    assert_eq!(told[4], line("called", "ci/7", "acquire: no-leader", 2));
    assert_eq!(told.len(), 5 + 10 + 3, "{told:?}");
    assert_eq!(told[15], line("gap", "", "990 calls to this node have no line", 2));
    assert_eq!(told[16], line("denied", "anonymous", "acquire: forbidden", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_calls_takes_no_place_from_entries_and_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit");
    let (queue, mut waiting) = tokio::sync::mpsc::channel(3 * super::QUEUE_CALLS_MAX);
    let audit = heard_by(queue.clone());
    audit.calls().queue = Some(queue);
    for _ in 0..2 * super::QUEUE_CALLS_MAX {
        call(&audit, "ci/7", true, &ServiceError::NoLeader, 5_000);
    }
    tell(&audit, [1]);
    let mut file = super::file::AuditFile::open(&path, CLUSTER).expect("it opens");
    while let Ok(batch) = waiting.try_recv() {
        file.write(&[batch]).expect("written");
    }
    // As the writer does, once it has them.
    audit.calls().waiting.store(0, std::sync::atomic::Ordering::Relaxed);
    call(&audit, "ci/7", true, &ServiceError::NoLeader, 5_000);
    file.write(&[waiting.try_recv().expect("one more")]).expect("written");
    let all = actions(&path);
    assert_eq!(all.len(), super::QUEUE_CALLS_MAX + 3);
    assert_eq!(all[super::QUEUE_CALLS_MAX..], ["forced", "gap", "called"]);
    judge(&path, None).expect("it is whole");
}
