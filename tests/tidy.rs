//! Rules about the source itself, checked by reading it: sizes, who may know whom, banned calls,
//! dead files, documents that agree with the tree.
//!
//! Every rule is a function from files to complaints, run by one test over the repository and by
//! another over a bad example, so that no rule passes by looking at nothing. Reading is textual
//! (comments and strings blanked, no macro expansion): it catches mistakes, not malice. Changing
//! `LAYERS` or `BANS` is an architecture decision and needs a record in `docs/adr`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Files over `FILE_LINES_MAX`. This list only shrinks.
const LONG_FILES: &[&str] = &[];

/// Functions over `FUNCTION_LINES_MAX`, as `path::function`. This list only shrinks.
const LONG_FUNCTIONS: &[&str] = &[];

/// Folders that the code map describes and that may not be there yet. This list only shrinks.
const FOLDERS_TO_COME: &[&str] = &[];

/// Who may know whom: a folder or file at the top of `src`, and what of ours it may name besides
/// itself. `main`, `lib` and `node` put the parts together and know everybody.
const LAYERS: &[(&str, &[&str])] = &[
    ("lock", &[]),
    ("client", &["lock"]),
    ("auth", &["lock"]),
    ("traces", &["lock"]),
    ("service", &["lock", "auth", "traces"]),
    ("shutdown", &[]),
    ("observe", &["lock", "service"]),
    ("config", &["lock", "traces"]),
    ("tls", &[]),
    ("raft", &["lock", "service", "shutdown", "tls"]),
    ("api", &["lock", "client", "auth", "service", "observe", "shutdown", "tls", "traces"]),
    ("bench", &["lock", "client"]),
    (
        "cli",
        &[
            "lock", "client", "auth", "tls", "config", "observe", "bench", "node", "shutdown",
            "traces",
        ],
    ),
];
const COMPOSITION: &[&str] = &["main", "lib", "node"];

/// A word that only some places may use. Paths are prefixes; `banned_in` says where the rule looks.
struct Ban {
    word: &'static str,
    banned_in: &'static [&'static str],
    except: &'static [&'static str],
    instead: &'static str,
}

// `solo` stands in for `raft` where there is none, its clock included.
const CLOCKS: &[&str] = &[
    "src/raft/clock.rs",
    "src/raft/faults/",
    "src/service/solo.rs",
    "src/raft/store/",
    "src/client/",
    "src/config/",
    "src/cli/",
    "src/bench/",
    "src/observe/",
];
const CHANCE: &[&str] =
    &["src/raft/birth.rs", "src/node.rs", "src/runtime", "src/client/", "src/cli/", "src/bench/"];
const FILES: &[&str] = &[
    "src/raft/store/",
    "src/raft/faults/",
    "src/config/",
    "src/cli/",
    "src/bench/",
    "src/observe/",
    "src/tls/",
];
const PRINTERS: &[&str] = &["src/main.rs", "src/cli/", "src/bench/"];
const SRC: &[&str] = &["src/"];
const CORE: &[&str] = &["src/lock/"];

#[rustfmt::skip]
const BANS: &[Ban] = &[
    Ban { word: "SystemTime::now", banned_in: SRC, except: CLOCKS, instead: "take the time as a value, from `raft::clock`" },
    Ban { word: "Instant::now", banned_in: SRC, except: CLOCKS, instead: "take the time as a value, from `raft::clock`" },
    Ban { word: ".elapsed()", banned_in: SRC, except: CLOCKS, instead: "subtract two times that came in as values" },
    Ban { word: "getrandom::", banned_in: SRC, except: CHANCE, instead: "take random bits as a parameter, made in `node.rs`" },
    Ban { word: "rand::", banned_in: SRC, except: CHANCE, instead: "take random bits as a parameter, made in `node.rs`" },
    Ban { word: "new_v4", banned_in: SRC, except: CHANCE, instead: "take random bits as a parameter, made in `node.rs`" },
    Ban { word: "RandomState", banned_in: SRC, except: &[], instead: "use an ordered collection" },
    Ban { word: "thread::sleep", banned_in: SRC, except: &[], instead: "wait for a condition, or `tokio::time::sleep`" },
    Ban { word: "thread::spawn", banned_in: SRC, except: &["src/raft/store/"], instead: "spawn a task, or a named thread in `raft/store`" },
    Ban { word: "unbounded_channel", banned_in: SRC, except: &[], instead: "give the channel a size" },
    Ban { word: "mpsc::channel()", banned_in: SRC, except: &[], instead: "give the channel a size" },
    Ban { word: "fs::", banned_in: SRC, except: FILES, instead: "touch files through `raft/store`" },
    Ban { word: "File::", banned_in: SRC, except: FILES, instead: "touch files through `raft/store`" },
    Ban { word: "OpenOptions", banned_in: SRC, except: FILES, instead: "touch files through `raft/store`" },
    Ban { word: "println!", banned_in: SRC, except: PRINTERS, instead: "log with `tracing`" },
    Ban { word: "eprintln!", banned_in: SRC, except: PRINTERS, instead: "log with `tracing`" },
    Ban { word: "openraft", banned_in: SRC, except: &["src/raft/"], instead: "go through the port in `service/replicator.rs`" },
    Ban { word: "sled", banned_in: SRC, except: &["src/raft/"], instead: "go through the port in `service/replicator.rs`" },
    Ban { word: "bincode", banned_in: SRC, except: &["src/raft/store/codec.rs"], instead: "use `raft/store/codec.rs`" },
    Ban { word: "opentelemetry", banned_in: SRC, except: &["src/traces/"], instead: "open a span of `traces`, which can be told nothing secret" },
    Ban { word: "oarlock_jepsen", banned_in: SRC, except: &["src/cli/"], instead: "the proof looks at the product from outside; only `oarlock prove` carries it" },
    Ban { word: "HashMap", banned_in: CORE, except: &[], instead: "use `BTreeMap`: hash order differs between nodes" },
    Ban { word: "HashSet", banned_in: CORE, except: &[], instead: "use `BTreeSet`: hash order differs between nodes" },
    Ban { word: "f64", banned_in: CORE, except: &[], instead: "use integers" },
    Ban { word: "f32", banned_in: CORE, except: &[], instead: "use integers" },
    Ban { word: "async", banned_in: CORE, except: &[], instead: "the core waits for nothing" },
];

/// What no source file contains, comments included. Spelled in halves so that this file passes.
const UNFINISHED: &[&str] = &[
    concat!("to", "do!"),
    concat!("un", "implemented!"),
    concat!("FIX", "ME"),
    concat!("#[ig", "nore"),
    concat!("#[al", "low("),
    concat!("#![al", "low("),
];
const MACHINE_PATHS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Packages of which no two versions may be in a build: whatever checks a signature or keeps a secret.
const ONCE: &[&str] =
    &["rcgen", "ring", "rustls", "rustls-pki-types", "rustls-webpki", "sha2", "tokio-rustls"];
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Tables whose last column names the tests that show each row: the page, and the heading from which
/// to read.
const TABLES_OF_TESTS: &[(&str, &str)] =
    &[("docs/features.md", "# "), ("docs/peers-defects.md", "# "), ("docs/testing.md", CASES)];
const CASES: &str = "## The cases";

// The rules.

#[test]
fn every_source_file_opens_by_saying_what_it_is() {
    passes(opens_with_prose(&rust()));
    fails(opens_with_prose(&[File::new("src/a.rs", "use std::fmt;\n")]), "`//!`");
}

#[test]
fn no_file_has_more_than_500_production_lines() {
    passes(long_files(&rust(), LONG_FILES));
    let long = File::new("src/a.rs", &"const A: u8 = 0;\n".repeat(501));
    fails(long_files(&[long], &[]), "501 production lines");
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "const A: u8 = 0;\n".repeat(501));
    passes(long_files(&[File::new("src/a.rs", &tests)], &[]));
    fails(long_files(&[File::new("src/a.rs", "")], &["src/a.rs"]), "remove it from the list");
}

#[test]
fn no_function_has_more_than_70_lines() {
    passes(long_functions(&rust(), LONG_FUNCTIONS));
    let long = format!("fn wide(a: [u8; 2]) {{\n{}}}\n", "    f(\"}\");\n".repeat(69));
    fails(long_functions(&[File::new("src/a.rs", &long)], &[]), "`wide` has 71 lines");
    let short = File::new("src/a.rs", "fn short() {}\n");
    fails(long_functions(&[short], &["src/a.rs::short"]), "remove it from the list");
}

#[test]
fn imports_point_inward() {
    passes(outward_imports(&rust()));
    let outward = |path, text| outward_imports(&[File::new(path, text)]);
    fails(outward("src/api/http/a.rs", "use crate::raft::types::Id;\n"), "may not name `raft`");
    fails(outward("src/raft/mod.rs", "use crate::{\n    api::http,\n};\n"), "may not name `api`");
    fails(outward("src/service/a.rs", "use super::super::raft::x;\n"), "may not name `raft`");
    fails(outward("src/service/a.rs", "use oarlock_client::wire;\n"), "may not name `client`");
    fails(outward("src/lock/a.rs", "use oarlock_client::wire;\n"), "may not name `client`");
    fails(outward("src/client/a.rs", "use oarlock::node;\n"), "may not name `node`");
    fails(outward("src/api/http/a.rs", "use crate::api::resp::x;\n"), "another surface");
    fails(outward("src/api/http/a/b.rs", "use super::super::super::resp::x;\n"), "another surface");
    fails(outward("src/novel/mod.rs", "//! New.\n"), "has no row in `LAYERS`");
    passes(outward("src/api/http/a.rs", "use crate::service::error;\n// crate::raft\n"));
}

#[test]
fn banned_calls_stay_where_they_are_allowed() {
    passes(banned_words(&rust()));
    let banned = |path: &str, text: &str| banned_words(&[File::new(path, text)]);
    for ban in BANS {
        let place = format!("{}a.rs", ban.banned_in[0]);
        fails(banned(&place, &format!("fn a() {{ {} }}\n", ban.word)), ban.instead);
    }
    passes(banned("src/raft/clock.rs", "fn a() { Instant::now(); }\n"));
    passes(banned("src/service/a.rs", "fn a() { operand::b(\"println!\"); } // sled\n"));
    passes(banned("src/service/a.rs", "#[cfg(test)]\nmod tests {\n    use std::fs::read;\n}\n"));
}

#[test]
fn every_source_file_is_part_of_some_crate() {
    passes(dead_files(&tracked()));
    let manifest = File::new("Cargo.toml", "[package]\n");
    let root = File::new("src/lib.rs", "mod a;\n#[path = \"odd.rs\"]\nmod b;\n// mod c;\n");
    let live = ["src/a/mod.rs", "src/odd.rs"].map(|path| File::new(path, ""));
    let dead = File::new("src/c.rs", "");
    let mut files = vec![manifest, root];
    files.extend(live);
    passes(dead_files(&files));
    files.push(dead);
    fails(dead_files(&files), "src/c.rs: no `mod` declaration");
}

#[test]
fn the_code_map_and_the_folders_of_src_agree() {
    passes(code_map(&tracked(), FOLDERS_TO_COME));
    let map = File::new("docs/architecture.md", "### `src/raft`\n");
    let folder = |path| File::new(path, "");
    fails(code_map(&[map.clone(), folder("src/api/a.rs")], &["raft"]), "lacks `src/api`");
    fails(code_map(&[map], &[]), "no folder `src/raft`");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    passes(broken_links(&tracked()));
    let page = File::new("docs/a.md", "See [b](b.md#part), [c](../c/) and [d](https://d).\n");
    let mut files = vec![page, File::new("c/e.rs", "")];
    fails(broken_links(&files), "`b.md`");
    files.push(File::new("docs/b.md", ""));
    passes(broken_links(&files));
}

#[test]
fn every_promise_names_tests_that_exist() {
    passes(promises(&tracked()));
    let promised = |held: &str| {
        let sections = (1..=10).map(|number| format!("## P{number} Word\n\nHeld by: {held}\n\n"));
        let page = sections.collect::<Vec<_>>().concat();
        let code = "#[test]\nfn a_holder_excludes() {}\nfn a_helper() {}\n";
        let files = ["docs/guarantees.md", "tests/it/a.rs", "src/lock/tests/scripts/a waiter.txt"];
        promises(&[
            File::new(files[0], &page),
            File::new(files[1], code),
            File::new(files[2], "acquire\n"),
        ])
    };
    passes(promised("`a_holder_excludes`, `a waiter.txt`"));
    passes(promised("not yet"));
    fails(promised("`a_holder_shares`"), "no test `a_holder_shares`");
    fails(promised("`a_helper`"), "no test `a_helper`");
    fails(promised(""), "P1: names no test");
    fails(promises(&[File::new("docs/guarantees.md", "")]), "P1: is missing");
}

#[test]
fn every_row_of_features_and_defects_names_tests_that_exist() {
    passes(rows_with_tests(&tracked()));
    let table = |cell: &str| {
        let page = format!("{CASES}\n| Trap | Test |\n|---|---|\n| one | {cell} |\n");
        let code = "#[test]\nfn it_holds() {}\n";
        let pages = TABLES_OF_TESTS.iter().map(|(path, _)| File::new(path, &page));
        rows_with_tests(&pages.chain([File::new("tests/it/a.rs", code)]).collect::<Vec<_>>())
    };
    passes(table("`it_holds`"));
    passes(table("not yet: there is no `oarlock run`"));
    fails(table("`it_fails`"), "no test `it_fails`");
    fails(table("it works"), "names no test");
    fails(rows_with_tests(&[File::new(TABLES_OF_TESTS[0].0, "")]), "has no rows");
}

#[test]
fn dependencies_are_locked_and_come_from_the_registry_alone() {
    passes(dependencies(&tracked()));
    let entry = |name: &str, rest: &str| {
        format!("[[package]]\nname = \"{name}\"\nversion = \"1\"\n{rest}\n")
    };
    let summed = format!("source = \"{REGISTRY}\"\nchecksum = \"00\"\n");
    let lock = |entries: &[String]| {
        let once: String = ONCE.iter().map(|name| entry(name, &summed)).collect();
        let manifest = File::new("src/a/Cargo.toml", "[package]\nname = \"ours\"\n");
        let lock = File::new("Cargo.lock", &format!("version = 4\n\n{once}{}", entries.concat()));
        dependencies(&[manifest, lock])
    };
    passes(lock(&[entry("ours", ""), entry("theirs", &summed)]));
    fails(lock(&[entry("theirs", "source = \"git+https://example.org/theirs#1\"\n")]), "`theirs`");
    fails(lock(&[entry("theirs", &format!("source = \"{REGISTRY}\"\n"))]), "`theirs`");
    fails(lock(&[entry("patched", "")]), "`patched`");
    fails(lock(&[entry("ring", &summed)]), "`ring` is there 2 times");
    fails(dependencies(&[]), "`ring` is there 0 times");
}

#[test]
fn nothing_names_a_place_on_one_machine() {
    passes(machine_paths(&tracked()));
    let text = format!("cd {}here\n", MACHINE_PATHS[0]);
    fails(machine_paths(&[File::new("a.md", &text)]), "a.md:1");
}

#[test]
fn lines_have_no_tabs_and_no_trailing_spaces() {
    passes(stray_spaces(&tracked()));
    fails(stray_spaces(&[File::new("a.md", "one\ntwo \n")]), "a.md:2");
    fails(stray_spaces(&[File::new("a.rs", "\tone\n")]), "a.rs:1");
}

#[test]
fn nothing_is_left_unfinished_or_silenced() {
    passes(unfinished(&rust()));
    for word in UNFINISHED {
        fails(unfinished(&[File::new("src/a.rs", &format!("// {word}\n"))]), "src/a.rs:1");
    }
}

#[test]
fn blanking_keeps_code_and_hides_words() {
    let text = "a('\"', b\"c\\\"\", r#\"d\"e\"#, 'f, '\\'') /* g /* h */ i */ j // k\nl";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    let kept: String = code.split_whitespace().collect();
    assert_eq!(kept, "a('',b\"\",r#\"\"#,'f,'')jl");
}

// What each rule does.

fn opens_with_prose(files: &[File]) -> Vec<String> {
    let silent = files.iter().filter(|file| !file.text.starts_with("//! "));
    silent.map(|file| format!("{}: does not start with `//!` prose", file.path)).collect()
}

fn long_files(files: &[File], listed: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut long = BTreeSet::new();
    for file in files.iter().filter(|file| file.is_production()) {
        let lines = file.production().lines().filter(|line| *line != TEST_LINE).count();
        if lines > FILE_LINES_MAX {
            long.insert(file.path.clone());
            if !listed.contains(&file.path.as_str()) {
                complaints.push(format!("{}: {lines} production lines", file.path));
            }
        }
    }
    complaints.extend(shrunk(listed, &long));
    complaints
}

fn long_functions(files: &[File], listed: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut long = BTreeSet::new();
    for file in files.iter().filter(|file| file.is_production()) {
        for (name, lines) in functions(&file.production()) {
            let key = format!("{}::{name}", file.path);
            if lines > FUNCTION_LINES_MAX {
                if !listed.contains(&key.as_str()) {
                    complaints.push(format!("{}: `{name}` has {lines} lines", file.path));
                }
                long.insert(key);
            }
        }
    }
    complaints.extend(shrunk(listed, &long));
    complaints
}

fn shrunk(listed: &[&str], long: &BTreeSet<String>) -> Vec<String> {
    let done = listed.iter().filter(|name| !long.contains(**name));
    done.map(|name| format!("{name}: fits now; remove it from the list")).collect()
}

/// Names of functions and the lines they span, signature included.
fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for at in words(code, "fn") {
        let name: String =
            code[at + 2..].trim_start().chars().take_while(|c| is_name(*c)).collect();
        if name.is_empty() {
            continue;
        }
        let mut depth = 0_i32;
        let body = code[at..].char_indices().find(|(_, c)| {
            depth += i32::from(matches!(c, '(' | '[')) - i32::from(matches!(c, ')' | ']'));
            depth == 0 && matches!(c, '{' | ';')
        });
        if let Some((offset, '{')) = body {
            let end = block_end(code, at + offset);
            found.push((name, code[at..end].lines().count()));
        }
    }
    found
}

fn outward_imports(files: &[File]) -> Vec<String> {
    let rows: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/")) {
        let own = file.module();
        let Some(top) = own.first() else { continue };
        if COMPOSITION.contains(&top.as_str()) {
            continue;
        }
        let Some(allowed) = rows.get(top.as_str()) else {
            complaints.push(format!("{}: `{top}` has no row in `LAYERS`", file.path));
            continue;
        };
        for target in named_modules(file, &own) {
            let Some(named) = target.first() else { continue };
            let ours = rows.contains_key(named.as_str()) || COMPOSITION.contains(&named.as_str());
            if ours && named != top && !allowed.contains(&named.as_str()) {
                complaints.push(format!("{}: `{top}` may not name `{named}`", file.path));
            }
            let surface = own.get(1).filter(|_| top == "api" && own.len() > 1);
            if let (Some(surface), Some(other)) = (surface, target.get(1)) {
                let is_folder =
                    files.iter().any(|f| f.path.starts_with(&format!("src/api/{surface}/")));
                if named == "api" && is_folder && other != surface {
                    complaints.push(format!("{}: names another surface, `{other}`", file.path));
                }
            }
        }
    }
    complaints
}

/// The first two segments of every path of ours in a file, as seen from the top of `src`.
fn named_modules(file: &File, own: &[String]) -> Vec<Vec<String>> {
    let code = file.code();
    let packaged = matches!(own.first().map(String::as_str), Some("lock" | "client"));
    let root = if packaged { own[..1].to_vec() } else { Vec::new() };
    let mut found = Vec::new();
    for (word, base) in [
        ("crate::", root),
        ("oarlock::", Vec::new()),
        ("oarlock_core", vec!["lock".to_owned()]),
        ("oarlock_client", vec!["client".to_owned()]),
    ] {
        for at in words(&code, word) {
            let rest =
                if base.len() == 1 && word != "crate::" { "" } else { &code[at + word.len()..] };
            found.extend(path_heads(rest).into_iter().map(|head| [base.clone(), head].concat()));
        }
    }
    for at in words(&code, "super::") {
        if code[..at].ends_with("super::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut base = own.to_vec();
        while let Some(tail) = rest.strip_prefix("super::") {
            base.pop();
            rest = tail;
        }
        found.extend(path_heads(rest).into_iter().map(|head| [base.clone(), head].concat()));
    }
    found
}

/// Up to two leading segments of each path that starts here: `a::b::c`, or each member of `{…}`.
fn path_heads(rest: &str) -> Vec<Vec<String>> {
    let head = |path: &str| -> Vec<String> {
        let path: String =
            path.trim_start().chars().take_while(|c| is_name(*c) || *c == ':').collect();
        path.split("::").filter(|part| !part.is_empty()).take(2).map(str::to_owned).collect()
    };
    if !rest.starts_with('{') {
        return vec![head(rest)];
    }
    let end = block_end(rest, 0);
    let mut depth = 0_i32;
    let members = rest[1..end.saturating_sub(1)].split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0 && c == ','
    });
    members.map(head).collect()
}

fn banned_words(files: &[File]) -> Vec<String> {
    let starts = |path: &str, places: &[&str]| places.iter().any(|place| path.starts_with(place));
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.is_production()) {
        let code = file.production();
        for ban in BANS {
            if !starts(&file.path, ban.banned_in) || starts(&file.path, ban.except) {
                continue;
            }
            for at in words(&code, ban.word) {
                let line = line_of(&code, at);
                let (path, word, instead) = (&file.path, ban.word, ban.instead);
                complaints.push(format!("{path}:{line}: `{word}` is banned here: {instead}"));
            }
        }
    }
    complaints
}

/// Follows `mod` declarations from the crate roots that cargo finds by itself.
fn dead_files(files: &[File]) -> Vec<String> {
    let rust: BTreeMap<&str, &File> =
        files.iter().filter(|f| f.is_rust()).map(|f| (f.path.as_str(), f)).collect();
    let packages: Vec<&str> =
        files.iter().filter_map(|file| file.path.strip_suffix("Cargo.toml")).collect();
    let mut queue: Vec<(&str, bool)> = rust
        .keys()
        .filter(|path| packages.iter().any(|package| is_root(package, path)))
        .map(|path| (*path, true))
        .collect();
    let mut live = BTreeSet::new();
    while let Some((path, is_root)) = queue.pop() {
        if !live.insert(path) {
            continue;
        }
        for candidate in declared(rust[path], is_root) {
            if let Some((found, _)) = rust.get_key_value(candidate.as_str()) {
                queue.push((found, false));
            }
        }
    }
    let dead = rust.keys().filter(|path| !live.contains(**path));
    dead.map(|path| format!("{path}: no `mod` declaration leads here")).collect()
}

fn is_root(package: &str, path: &str) -> bool {
    let Some(inside) = path.strip_prefix(package) else { return false };
    let parts: Vec<&str> = inside.split('/').collect();
    match parts.as_slice() {
        ["lib.rs" | "main.rs" | "build.rs"] | ["src", "lib.rs" | "main.rs"] => true,
        ["tests" | "examples" | "benches", rest @ ..] | ["src", "bin", rest @ ..] => {
            matches!(rest, [_] | [_, "main.rs"])
        }
        _ => false,
    }
}

/// The paths at which the modules that a file declares may lie.
fn declared(file: &File, is_root: bool) -> Vec<String> {
    let code = file.code();
    let path = Path::new(&file.path);
    let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let inner = if is_root || stem == "mod" { folder.clone() } else { folder.join(stem) };
    let mut found = Vec::new();
    for at in words(&code, "mod") {
        let rest = code[at + 3..].trim_start();
        let name: String = rest.chars().take_while(|c| is_name(*c)).collect();
        if name.is_empty() || !rest[name.len()..].trim_start().starts_with(';') {
            continue;
        }
        let line = file.text[..at].rfind('\n').unwrap_or(0);
        let attribute = file.text[..line].rsplit('\n').next().unwrap_or_default().trim();
        let odd = attribute.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]"));
        if let Some(odd) = odd {
            found.push(normal(folder.join(odd)));
        } else {
            found.push(normal(inner.join(format!("{name}.rs"))));
            found.push(normal(inner.join(&name).join("mod.rs")));
        }
    }
    found
}

fn code_map(files: &[File], to_come: &[&str]) -> Vec<String> {
    let text = text_of(files, "docs/architecture.md");
    let mapped: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("### `src/")?.strip_suffix('`')).collect();
    let folders: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| Some(file.path.strip_prefix("src/")?.split_once('/')?.0))
        .collect();
    let mut complaints: Vec<String> = folders
        .difference(&mapped)
        .map(|name| format!("docs/architecture.md: lacks `src/{name}`"))
        .collect();
    let invented = mapped.difference(&folders).filter(|name| !to_come.contains(*name));
    complaints.extend(invented.map(|n| format!("docs/architecture.md: no folder `src/{n}`")));
    complaints
}

fn broken_links(files: &[File]) -> Vec<String> {
    let mut places: BTreeSet<String> = BTreeSet::new();
    for file in files {
        places.extend(Path::new(&file.path).ancestors().map(normal));
    }
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.has_extension("md")) {
        let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
        for part in file.text.split("](").skip(1) {
            let link = part.split([')', ' ', '\n']).next().unwrap_or_default();
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            if !places.contains(&normal(folder.join(target))) {
                complaints.push(format!("{}: the link to `{target}` is broken", file.path));
            }
        }
    }
    complaints
}

fn promises(files: &[File]) -> Vec<String> {
    let text = text_of(files, "docs/guarantees.md");
    let tests = test_names(files);
    let mut complaints = Vec::new();
    for number in 1..=10 {
        let heading = format!("\n## P{number} ");
        let padded = format!("\n{text}");
        let Some((_, section)) = padded.split_once(heading.as_str()) else {
            complaints.push(format!("P{number}: is missing from docs/guarantees.md"));
            continue;
        };
        let section = section.split("\n## ").next().unwrap_or_default();
        let held = section.split_once("\nHeld by:").map_or("", |(_, held)| held);
        let held = held.split("\n\n").next().unwrap_or_default().trim();
        let names: Vec<&str> = held.split('`').skip(1).step_by(2).collect();
        if names.is_empty() && held != "not yet" {
            complaints.push(format!("P{number}: names no test after `Held by:`"));
        }
        let unknown = names.iter().filter(|name| !tests.contains(**name));
        complaints.extend(unknown.map(|name| format!("P{number}: no test `{name}` exists")));
    }
    complaints
}

/// Names of test functions and of files that tests read.
fn test_names(files: &[File]) -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for file in files {
        if file.is_rust() {
            let code = file.code();
            let names = words(&code, "fn").into_iter().filter_map(|at| {
                let attributes = code[..at].rsplit(['}', ';']).next().unwrap_or_default();
                let is_test = attributes.contains("test]") || attributes.contains("test(");
                let name = code[at + 2..].trim_start();
                is_test.then(|| name.chars().take_while(|c| is_name(*c)).collect::<String>())
            });
            tests.extend(names);
        } else if file.path.contains("tests/") {
            tests.extend(file.path.rsplit('/').next().map(str::to_owned));
        }
    }
    tests
}

/// Rows of the tables that name tests: each names some, which exist, or says `not yet`.
fn rows_with_tests(files: &[File]) -> Vec<String> {
    let tests = test_names(files);
    let mut complaints = Vec::new();
    for (path, heading) in TABLES_OF_TESTS {
        let text = text_of(files, path);
        let text = text.split_once(heading).map_or("", |(_, below)| below);
        let rows = text.lines().filter(|line| line.starts_with("| "));
        let rows = rows.filter(|line| !line.ends_with("| Test |") && !line.ends_with("| tests |"));
        let mut count = 0;
        for row in rows {
            count += 1;
            let cell = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
            let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
            let shown = names.iter().any(|name| tests.contains(*name));
            if !shown && !cell.contains("not yet") {
                complaints.push(format!("{path}: names no test: {row}"));
            }
            let is_test = |name: &&&str| !name.contains([' ', '/', '-']);
            let unknown = names.iter().filter(is_test).filter(|name| !tests.contains(**name));
            complaints.extend(unknown.map(|name| format!("{path}: no test `{name}` exists")));
        }
        if count == 0 {
            complaints.push(format!("{path}: has no rows"));
        }
    }
    complaints
}

/// What `Cargo.lock` says: where each package comes from, with its checksum, or that it is ours.
fn dependencies(files: &[File]) -> Vec<String> {
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
        line.and_then(|value| value.strip_suffix('"')).unwrap_or_default().to_owned()
    };
    let manifests = files.iter().filter(|file| file.path.ends_with("Cargo.toml"));
    let ours: BTreeSet<String> = manifests.map(|file| field(&file.text, "name")).collect();
    let lock = text_of(files, "Cargo.lock");
    let mut complaints = Vec::new();
    let mut versions = BTreeMap::<String, usize>::new();
    for package in lock.split("[[package]]\n").skip(1) {
        let (name, source) = (field(package, "name"), field(package, "source"));
        let is_fixed = source == REGISTRY && !field(package, "checksum").is_empty();
        if !(is_fixed || source.is_empty() && ours.contains(&name)) {
            complaints.push(format!("Cargo.lock: `{name}` is not fixed by the registry: {source}"));
        }
        *versions.entry(name).or_default() += 1;
    }
    let of = |name: &str| versions.get(name).copied().unwrap_or_default();
    let not_once = ONCE.iter().filter(|name| of(name) != 1);
    complaints
        .extend(not_once.map(|name| format!("Cargo.lock: `{name}` is there {} times", of(name))));
    complaints
}

fn machine_paths(files: &[File]) -> Vec<String> {
    find_lines(files, |line| {
        MACHINE_PATHS.iter().any(|place| {
            line.match_indices(place).any(|(at, _)| {
                !line[..at].ends_with(|c: char| is_name(c) || matches!(c, '.' | '}' | '>'))
            })
        })
    })
}

fn stray_spaces(files: &[File]) -> Vec<String> {
    let ours: Vec<File> = files.iter().filter(|f| f.path != "Cargo.lock").cloned().collect();
    find_lines(&ours, |line| line.contains('\t') || line.ends_with(' '))
}

fn unfinished(files: &[File]) -> Vec<String> {
    find_lines(files, |line| UNFINISHED.iter().any(|word| line.contains(word)))
}

fn find_lines(files: &[File], is_bad: impl Fn(&str) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        let bad = file.text.lines().enumerate().filter(|(_, line)| is_bad(line));
        complaints.extend(bad.map(|(at, line)| format!("{}:{}: {line}", file.path, at + 1)));
    }
    complaints
}

// Reading.

/// Stands for a line of test code where only production code is wanted.
const TEST_LINE: &str = "\u{1}";

#[derive(Clone)]
struct File {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_rust(&self) -> bool {
        self.has_extension("rs")
    }

    fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|found| found == extension)
    }

    /// Whether the file is part of what ships: not a test, an example or a benchmark.
    fn is_production(&self) -> bool {
        let is_test = |part: &str| {
            matches!(part, "tests" | "examples" | "benches" | "tests.rs")
                || part.ends_with("_tests.rs")
        };
        self.is_rust() && !self.path.split('/').any(is_test)
    }

    /// Without comments and the insides of strings; every byte keeps its place.
    fn code(&self) -> String {
        blank(&self.text)
    }

    /// `code`, with the lines of `#[cfg(test)]` modules replaced.
    fn production(&self) -> String {
        let mut code = self.code();
        while let Some(at) = code.find("#[cfg(test)]\nmod ") {
            let open = code[at..].find(['{', ';']).map_or(code.len() - 1, |offset| at + offset);
            let end = if code[open..].starts_with('{') { block_end(&code, open) } else { open + 1 };
            let lines = code[at..end].lines().count();
            code.replace_range(at..end, &vec![TEST_LINE; lines].join("\n"));
        }
        code
    }

    /// The module path from the top of `src`, as in `["raft", "store", "log"]`.
    fn module(&self) -> Vec<String> {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let stem = inside.strip_suffix(".rs").unwrap_or(inside);
        let mut parts: Vec<String> = stem.split('/').map(str::to_owned).collect();
        if parts.len() > 1 && parts.last().is_some_and(|last| last == "mod" || last == "lib") {
            parts.pop();
        }
        parts
    }
}

fn rust() -> Vec<File> {
    tracked().into_iter().filter(File::is_rust).collect()
}

/// Every text file of the repository that git knows or would add; all files without git.
fn tracked() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listing = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success() && !output.stdout.is_empty());
    let paths: Vec<String> = match listing {
        Some(output) => {
            String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
        }
        None => walk(root),
    };
    assert!(paths.iter().any(|path| path == "tests/tidy.rs"), "the listing misses this file");
    let read = |path: &String| {
        let text = std::fs::read_to_string(root.join(path)).ok()?;
        Some(File { path: path.clone(), text })
    };
    paths.iter().filter_map(read).collect()
}

fn walk(root: &Path) -> Vec<String> {
    let mut folders = vec![root.to_path_buf()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("read a folder of the repository") {
            let path = entry.expect("read an entry of the repository").path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() && name != "target" && name != ".git" {
                folders.push(path);
            } else if path.is_file() {
                let inside = path.strip_prefix(root).expect("inside the repository");
                found.push(inside.to_string_lossy().into_owned());
            }
        }
    }
    found
}

fn text_of(files: &[File], path: &str) -> String {
    files.iter().find(|file| file.path == path).map(|file| file.text.clone()).unwrap_or_default()
}

/// Resolves `.` and `..` without touching the disk.
fn normal(path: impl AsRef<Path>) -> String {
    let mut parts = PathBuf::new();
    for part in path.as_ref().components() {
        match part.as_os_str().to_str() {
            Some("..") => drop(parts.pop()),
            Some(".") | None => {}
            Some(name) => parts.push(name),
        }
    }
    parts.to_string_lossy().into_owned()
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands as a word of its own, not inside a longer name.
fn words(code: &str, word: &str) -> Vec<usize> {
    let edge = |c: Option<char>| !c.is_some_and(is_name);
    let open_start = !word.starts_with(is_name);
    let open_end = !word.ends_with(is_name);
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(|at| open_start || edge(code[..*at].chars().next_back()))
        .filter(|at| open_end || edge(code[at + word.len()..].chars().next()))
        .collect()
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The offset just behind the brace that closes the one at `open`.
fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0_i32;
    for (offset, c) in code[open..].char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return open + offset + 1;
        }
    }
    code.len()
}

/// Replaces comments and the insides of literals by spaces; line breaks and offsets stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let (from, to, next) = hidden(text, at);
        for byte in &mut out[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = next;
    }
    String::from_utf8(out).expect("whole literals were blanked")
}

/// The span to hide that starts at `at` (empty if none), and where to go on.
fn hidden(text: &str, at: usize) -> (usize, usize, usize) {
    let rest = &text.as_bytes()[at..];
    let length = |found: Option<usize>| found.map_or(text.len(), |offset| at + offset);
    let in_name = at > 0 && is_name(char::from(text.as_bytes()[at - 1]));
    match rest {
        [b'/', b'/', ..] => {
            let end = length(text[at..].find('\n'));
            (at, end, end)
        }
        [b'/', b'*', ..] => {
            let end = comment_end(rest).map_or(text.len(), |offset| at + offset);
            (at, end, end)
        }
        [b'r', b'#' | b'"', ..] if !in_name || text.as_bytes()[at - 1] == b'b' => {
            let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return (at, at, at + 1);
            }
            let close = format!("\"{}", "#".repeat(hashes));
            let inside = at + 2 + hashes;
            let end = text[inside..].find(&close).map_or(text.len(), |offset| inside + offset);
            (inside, end, (end + close.len()).min(text.len()))
        }
        [b'"', ..] => {
            let end = quote_end(text, at + 1, b'"');
            (at + 1, end, (end + 1).min(text.len()))
        }
        [b'\'', b'\\', ..] => {
            let end = quote_end(text, at + 1, b'\'');
            (at + 1, end, (end + 1).min(text.len()))
        }
        [b'\'', ..] => {
            let mut chars = text[at + 1..].char_indices().skip(1);
            match chars.next() {
                Some((offset, '\'')) => (at + 1, at + 1 + offset, at + 2 + offset),
                _ => (at, at, at + 1),
            }
        }
        _ => (at, at, at + 1),
    }
}

/// The closing quote of a literal whose inside starts at `from`; a backslash hides one byte.
fn quote_end(text: &str, from: usize, quote: u8) -> usize {
    let bytes = text.as_bytes();
    let mut at = from;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len())
}

/// The offset behind the `*/` that ends a block comment; they nest.
fn comment_end(rest: &[u8]) -> Option<usize> {
    let mut depth = 0_i32;
    let mut at = 0;
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

fn passes(complaints: impl AsRef<[String]>) {
    let complaints = complaints.as_ref();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn fails(complaints: impl AsRef<[String]>, expected: &str) {
    let complaints = complaints.as_ref();
    let found = complaints.iter().any(|complaint| complaint.contains(expected));
    assert!(found, "no complaint says {expected:?}: {complaints:?}");
}
