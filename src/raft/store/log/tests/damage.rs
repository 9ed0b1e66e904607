//! What recovery does with a disk that is not as it was left.

use super::*;
use crate::raft::store::files::preallocate;

/// A closed log of several segments: a vote, then entries, each durable on its own.
fn written(last: u64) -> MemoryFiles {
    let files = MemoryFiles::new();
    let store = open(&files);
    save_vote(&store, 1).unwrap();
    append_range(&store, 1, 0..=last);
    drop(store);
    files
}

/// Opening fails, names the file, tells what to do and leaves the disk as it is.
fn refused(files: &MemoryFiles, name: &str) {
    let before = files.image();
    let error = try_open(files, SMALL).err().expect("it is refused").to_string();
    assert!(error.contains(name), "{name}: {error}");
    assert!(error.contains("rebuild this node from its peers"), "{error}");
    assert_eq!(files.image(), before, "a refused log was changed");
}

/// The last segment with anything in it, and where its records end. A witness may lie there.
fn last_used(files: &MemoryFiles) -> (String, usize) {
    let image = files.image();
    let used = image.iter().rev().find(|(_, bytes)| bytes.iter().any(|byte| *byte != 0));
    let (name, bytes) = used.unwrap();
    let sequence = u64::from_str_radix(&name[4..20], 16).unwrap();
    (name.clone(), record::scan(bytes, sequence).1)
}

#[test]
fn a_tail_torn_at_any_byte_loses_only_the_last_record() {
    let whole = written(25);
    let (name, end) = last_used(&whole);
    for cut in 1..40 {
        let files = whole.crash(memory::Survival::Everything);
        // A cut in the middle of the last write: it has no witness yet.
        files.damage(&name, |bytes| bytes[end - cut..].fill(0));
        let store = open(&files);
        let last = store.bounds().0.unwrap().index;
        // A record takes 22 bytes, so the longer cuts reach into the one before.
        assert!(last == 24 || (cut > 20 && last == 23), "cut {cut} left {last}");
        append_range(&store, 2, last + 1..=last + 3);
        drop(store);
        assert_eq!(ids(&open(&files)).len() as u64, last + 4, "cut {cut}");
    }
}

#[test]
fn a_whole_record_behind_a_torn_one_never_comes_back() {
    let files = MemoryFiles::new();
    let store = try_open(&files, LogOptions::default()).unwrap();
    save_vote(&store, 1).unwrap();
    append_range(&store, 1, 0..=0);
    let (name, before) = last_used(&files);
    append(&store, vec![blank(1, 1), blank(1, 2)]).unwrap();
    drop(store);
    // One write of two records, of which only the second reached the disk.
    let (_, end) = last_used(&files);
    files.damage(&name, |bytes| {
        bytes[before + 3..before + 8].fill(0);
        bytes[end..].fill(0);
    });
    let store = open(&files);
    assert_eq!(ids(&store), [log_id(1, 0)]);
    append_range(&store, 2, 1..=1);
    drop(store);
    assert_eq!(ids(&open(&files)), [log_id(1, 0), log_id(2, 1)]);
}

#[test]
fn a_flipped_bit_before_later_records_is_refused() {
    let whole = written(60);
    let names: Vec<String> = whole.image().into_keys().collect();
    for (name, at) in [(&names[0], 3), (&names[0], 60), (&names[1], 0), (&names[1], 400)] {
        let files = whole.crash(memory::Survival::Everything);
        files.damage(name, |bytes| bytes[at] ^= 4);
        refused(&files, name);
    }
    let (name, end) = last_used(&whole);
    for at in (0..end - 80).step_by(7) {
        let files = whole.crash(memory::Survival::Everything);
        files.damage(&name, |bytes| bytes[at] ^= 1);
        refused(&files, &name);
    }
}

#[test]
fn a_blank_stretch_before_later_records_is_refused() {
    let files = written(60);
    let (name, _) = last_used(&files);
    files.damage(&name, |bytes| bytes[40..90].fill(0));
    refused(&files, &name);
}

#[test]
fn a_missing_segment_is_refused_wherever_it_was() {
    let whole = written(60);
    let (last, _) = last_used(&whole);
    for name in whole.image().into_keys().filter(|name| *name <= last) {
        let files = whole.crash(memory::Survival::Everything);
        files.remove(&name).unwrap();
        if name == last {
            // With the prepared one gone too, only the seal before it tells.
            let prepared: Vec<String> =
                files.image().into_keys().filter(|other| *other > last).collect();
            for name in prepared {
                files.remove(&name).unwrap();
            }
        }
        refused(&files, &name);
    }
}

#[test]
fn a_segment_whose_end_is_lost_is_refused() {
    let files = written(60);
    let name = segment_name(2);
    files.damage(&name, |bytes| bytes[350..].fill(0));
    refused(&files, &name);
}

#[test]
fn entries_without_a_vote_are_refused() {
    let files = MemoryFiles::new();
    let store = open(&files);
    append_range(&store, 1, 0..=0);
    drop(store);
    // The first entry of a cluster is written before its first vote.
    let store = open(&files);
    append_range(&store, 1, 1..=1);
    drop(store);
    refused(&files, &segment_name(1));
}

#[test]
fn a_newer_version_is_named_and_left_alone() {
    let files = written(3);
    let name = segment_name(1);
    files.damage(&name, |bytes| {
        bytes[0] = 2;
        let end = 6 + bytes[2] as usize;
        let seed = crc32c::crc32c_append(crc32c::crc32c(&1_u64.to_le_bytes()), &[0; 8]);
        let checksum = crc32c::crc32c_append(seed, &bytes[..end]);
        bytes[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
    });
    let before = files.image();
    let error = try_open(&files, SMALL).err().unwrap().to_string();
    assert!(error.contains("written by a newer oarlock"), "{error}");
    assert_eq!(files.image(), before);
}

#[test]
fn a_first_segment_that_was_never_begun_is_begun_again() {
    for length in [0, 10, 512] {
        let files = MemoryFiles::new();
        preallocate(&files, &segment_name(1), length).unwrap();
        let store = open(&files);
        assert!(store.is_empty());
        save_vote(&store, 1).unwrap();
        append_range(&store, 1, 0..=2);
        drop(store);
        assert_eq!(ids(&open(&files)).len(), 3);
    }
}
