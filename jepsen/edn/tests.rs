//! The form is read back by a reader of its own, as strictly as Jepsen's tools would.

use std::collections::BTreeMap;

use super::*;
use crate::checker::legal_history;
use crate::history::Fault;

/// As much of EDN as a history has.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Edn {
    Nil,
    Number(u64),
    Text(String),
    Keyword(String),
    List(Vec<Edn>),
    Map(BTreeMap<String, Edn>),
}

/// Reads one value from the front of the text.
fn read(text: &mut &str) -> Edn {
    skip(text);
    let first = text.chars().next().expect("a value");
    match first {
        '{' => {
            let mut map = BTreeMap::new();
            for pair in members(text, '}').chunks(2) {
                let [Edn::Keyword(key), value] = pair else { panic!("no pair: {pair:?}") };
                assert!(map.insert(key.clone(), value.clone()).is_none(), "{key} comes twice");
            }
            Edn::Map(map)
        }
        '[' => Edn::List(members(text, ']')),
        '"' => {
            let mut escaped = false;
            let inner = &text[1..];
            let end = inner.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let end = end.expect("a text ends");
            *text = &inner[end + 1..];
            Edn::Text(inner[..end].replace("\\\"", "\"").replace("\\\\", "\\"))
        }
        _ => {
            let end = text.find([' ', ',', '}', ']']).unwrap_or(text.len());
            let (word, rest) = text.split_at(end);
            *text = rest;
            match (word, word.strip_prefix(':')) {
                ("nil", _) => Edn::Nil,
                (_, Some(keyword)) => Edn::Keyword(keyword.to_owned()),
                _ => Edn::Number(word.parse().expect("a number")),
            }
        }
    }
}

fn members(text: &mut &str, end: char) -> Vec<Edn> {
    *text = &text[1..];
    let mut members = Vec::new();
    loop {
        skip(text);
        if let Some(rest) = text.strip_prefix(end) {
            *text = rest;
            return members;
        }
        members.push(read(text));
    }
}

fn skip(text: &mut &str) {
    *text = text.trim_start_matches([' ', ',']);
}

fn lines(records: &Records) -> Vec<BTreeMap<String, Edn>> {
    let text = history(records);
    text.lines()
        .map(|line| {
            let mut rest = line;
            let value = read(&mut rest);
            assert_eq!(rest, "", "something follows in {line}");
            let Edn::Map(map) = value else { panic!("no map: {line}") };
            map
        })
        .collect()
}

fn keyword(line: &BTreeMap<String, Edn>, key: &str) -> String {
    let Some(Edn::Keyword(word)) = line.get(key) else { panic!("{key} is missing in {line:?}") };
    word.clone()
}

#[test]
fn a_history_reads_back_as_calls_and_completions() {
    let mut records = legal_history();
    let what = "kill \"leader\"".to_owned();
    let [began_at, ended_at] = [100, 200].map(Duration::from_millis);
    records.faults.push(Fault { what: what.clone(), began_at, ended_at });
    let lines = lines(&records);
    assert_eq!(lines.len(), 2 * records.operations.len() + 2);
    let mut last_time = 0;
    let mut under_way: BTreeMap<u64, (String, Option<Edn>)> = BTreeMap::new();
    let mut gone: Vec<u64> = Vec::new();
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line.get("index"), Some(&Edn::Number(index as u64)));
        let Some(Edn::Number(time)) = line.get("time") else { panic!("no time: {line:?}") };
        assert!(*time >= last_time, "time goes back at {line:?}");
        last_time = *time;
        let kind = keyword(line, "type");
        if line.get("process") == Some(&Edn::Keyword("nemesis".to_owned())) {
            assert_eq!(
                (kind.as_str(), line.get("value")),
                ("info", Some(&Edn::Text(what.clone())))
            );
            continue;
        }
        let Some(Edn::Number(process)) = line.get("process") else { panic!("who? {line:?}") };
        assert!(!gone.contains(process), "a process goes on after :info: {line:?}");
        let call = (keyword(line, "f"), line.get("request").cloned());
        assert!(line.contains_key("value"), "{line:?}");
        match kind.as_str() {
            "invoke" => {
                let other = under_way.insert(*process, call);
                assert_eq!(other, None, "two calls at once: {line:?}");
            }
            "ok" | "fail" | "info" => {
                assert_eq!(under_way.remove(process), Some(call), "{line:?}");
                if kind == "info" {
                    gone.push(*process);
                }
            }
            _ => panic!("{kind} is no type"),
        }
        *ends.entry(kind).or_default() += 1;
    }
    assert!(under_way.is_empty(), "calls without completion: {under_way:?}");
    assert!(["ok", "fail", "info"].iter().all(|kind| ends.contains_key(*kind)), "{ends:?}");
}

#[test]
fn a_grant_shows_its_tokens_beside_its_locks() {
    let mut records = legal_history();
    records.operations.retain(Operation::is_grant);
    for line in lines(&records).iter().filter(|line| keyword(line, "type") == "ok") {
        let Some(Edn::List(value)) = line.get("value") else { panic!("{line:?}") };
        let pairs = if keyword(line, "f") == "acquire-many" {
            value.clone()
        } else {
            vec![Edn::List(value.clone())]
        };
        for pair in pairs {
            let is_pair = matches!(&pair, Edn::List(pair)
                if matches!(pair.as_slice(), [Edn::Text(_), Edn::Number(1..)]));
            assert!(is_pair, "{pair:?} in {line:?}");
        }
    }
}
