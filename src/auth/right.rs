//! Rights: a verb, and the beginning of the names of locks for which it is given.

use std::fmt;
use std::str::FromStr;

use oarlock_core::limits;

/// What may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Take, renew, release and hand over locks; open and keep sessions; write values.
    Acquire,
    /// Look: at locks, histories, values, events, the cluster and its metrics.
    Inspect,
    /// Take locks away from their holders.
    Force,
    /// Members, leadership, backups and tokens. Not about names.
    Admin,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Acquire, Self::Inspect, Self::Force, Self::Admin];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Inspect => "inspect",
            Self::Force => "force",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One verb over all names that begin with a prefix; every name begins with the empty one. Written
/// `verb:prefix`, or the verb alone for all names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    pub verb: Verb,
    pub prefix: String,
}

impl Right {
    /// Every verb over every name.
    pub fn all() -> Vec<Self> {
        Verb::ALL.map(|verb| Self { verb, prefix: String::new() }).into()
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, prefix } = self;
        if prefix.is_empty() { write!(f, "{verb}") } else { write!(f, "{verb}:{prefix}") }
    }
}

/// Why a text is no right; told to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotARight(pub String);

impl fmt::Display for NotARight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotARight {}

impl FromStr for Right {
    type Err = NotARight;

    fn from_str(text: &str) -> Result<Self, NotARight> {
        let (word, prefix) = text.split_once(':').unwrap_or((text, ""));
        let verb = Verb::ALL.into_iter().find(|verb| verb.as_str() == word).ok_or_else(|| {
            NotARight(format!(
                "a right is acquire, inspect or force, each with `:` and the beginning of the names \
                 it is for, or admin; not {:?}",
                text.chars().take(40).collect::<String>()
            ))
        })?;
        if verb == Verb::Admin && !prefix.is_empty() {
            return Err(NotARight("admin is not about names: it takes no prefix".to_owned()));
        }
        if prefix.len() > limits::NAME_BYTES_MAX || prefix.chars().any(char::is_control) {
            return Err(NotARight(format!(
                "a prefix is the beginning of a name: at most {} bytes, no control characters",
                limits::NAME_BYTES_MAX
            )));
        }
        Ok(Self { verb, prefix: prefix.to_owned() })
    }
}

/// About what a verb is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// One name.
    Name(&'a str),
    /// All names that begin so.
    Prefix(&'a str),
    /// Nothing that has a name, or what is named by an id that is a right itself.
    Any,
}

/// Whether one of these rights is enough.
pub fn allow(rights: &[Right], verb: Verb, scope: Scope<'_>) -> bool {
    rights.iter().filter(|right| right.verb == verb).any(|right| match scope {
        Scope::Name(text) | Scope::Prefix(text) => text.starts_with(&right.prefix),
        Scope::Any => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(texts: &[&str]) -> Vec<Right> {
        texts.iter().map(|text| text.parse().expect("a right")).collect()
    }

    #[test]
    fn a_right_reads_back_as_it_is_written() {
        for text in ["acquire:team-a/", "inspect", "force:a:b", "admin"] {
            assert_eq!(text.parse::<Right>().expect("a right").to_string(), text);
        }
        for bad in ["", "own", "Acquire:a", "admin:a", "acquire:\n", " acquire"] {
            assert!(bad.parse::<Right>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_right_covers_names_and_prefixes_that_begin_with_its_own() {
        let all = rights(&["acquire:team-a/", "inspect:team-a/jobs", "inspect:b"]);
        let may = |verb, scope| allow(&all, verb, scope);
        assert!(may(Verb::Acquire, Scope::Name("team-a/x")));
        assert!(!may(Verb::Acquire, Scope::Name("team-a")), "shorter than the prefix");
        assert!(!may(Verb::Acquire, Scope::Name("team-b/x")));
        assert!(!may(Verb::Acquire, Scope::Name("x/team-a/")), "the beginning, not a part");
        assert!(!may(Verb::Force, Scope::Name("team-a/x")), "another verb");
        assert!(may(Verb::Inspect, Scope::Prefix("team-a/jobs/")));
        assert!(!may(Verb::Inspect, Scope::Prefix("team-a/")), "wider than what was given");
        assert!(!may(Verb::Inspect, Scope::Prefix("")));
        assert!(may(Verb::Inspect, Scope::Any) && !may(Verb::Admin, Scope::Any));
        assert!(allow(&Right::all(), Verb::Force, Scope::Prefix("")));
    }
}
