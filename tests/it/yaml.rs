//! Reads YAML into the values of JSON, so that tests can look into what ships.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};
use yaml_rust2::{Yaml, YamlLoader};

/// All documents of a file of this repository.
pub(crate) fn read(path: &str) -> Vec<Value> {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = fs::read_to_string(whole).unwrap_or_else(|error| panic!("{path}: {error}"));
    let documents = YamlLoader::load_from_str(&text);
    let documents = documents.unwrap_or_else(|error| panic!("{path}: {error}"));
    documents.iter().map(value).collect()
}

fn value(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::String(text) => Value::String(text.clone()),
        Yaml::Integer(number) => (*number).into(),
        Yaml::Boolean(truth) => (*truth).into(),
        Yaml::Array(items) => items.iter().map(value).collect(),
        Yaml::Hash(entries) => {
            let name = |key: &Yaml| key.as_str().expect("names are texts").to_owned();
            let mut map = Map::new();
            for (key, inner) in entries {
                assert!(map.insert(name(key), value(inner)).is_none(), "{key:?} is there twice");
            }
            Value::Object(map)
        }
        Yaml::Null => Value::Null,
        other => panic!("{other:?} is not used in what ships"),
    }
}
