//! `oarlock tokens`: who may do what. Prints a secret once, on standard output, for whoever asked.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use clap::Subcommand;
use oarlock_client::wire::{AccessToken, AccessTokenInfo, AccessTokenRequest, AccessTokens};

use crate::auth::credential::hex;
use crate::auth::key::Key;
use crate::cli::locks::{Target, for_people, ms};
use crate::cli::{Failure, print};

/// What is done about tokens.
#[derive(Debug, Subcommand)]
pub(super) enum OfTokens {
    /// Make the first token, with all rights; from then on everybody needs one
    ///
    /// Only on the machine of a node, and only while nobody may administer the cluster.
    Init {
        /// Name of the administrator
        #[arg(long, default_value = "admin")]
        name: String,
    },
    /// Make a token; its secret is printed once
    Create {
        /// Name of the identity, as logs show it
        name: String,
        /// acquire, inspect or force, each alone or with `:` and the beginning of lock names; or admin
        #[arg(long = "right", required = true, value_name = "VERB[:PREFIX]")]
        rights: Vec<String>,
        /// When it ends by itself; without it never
        #[arg(long, value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
        /// Give the rights to whoever shows a client certificate with this name, instead of a token
        #[arg(long)]
        certificate: bool,
        /// Requests per second, at each node
        #[arg(long, value_name = "N")]
        requests_per_second: Option<u32>,
        /// Calls that wait for a lock at once, at each node
        #[arg(long, value_name = "N")]
        waiting: Option<u32>,
        /// Streams open at once, at each node
        #[arg(long, value_name = "N")]
        streams: Option<u32>,
        /// Locks held or waited for at once, in the whole cluster
        #[arg(long, value_name = "N")]
        locks: Option<u32>,
        /// Sessions open at once, in the whole cluster
        #[arg(long, value_name = "N")]
        sessions: Option<u32>,
    },
    /// Make a token for the day on which every other one is lost, without asking any node
    ///
    /// Prints the token on standard output, and the line for the configuration of a node beside it. A
    /// node that has the line lets the token in with all rights, from SIGHUP or its next start on, and
    /// says so in its log and audit at every use.
    BreakGlass,
    /// Show every token with its rights, without secrets
    List,
    /// Take a token back: it opens nothing from then on, and its streams end
    Revoke {
        /// Its id, as `list` shows it
        id: String,
    },
}

pub(super) async fn run(target: &Target, of: OfTokens) -> Result<(), Failure> {
    let client = target.client();
    match of {
        OfTokens::BreakGlass => break_glass()?,
        OfTokens::Init { name } => show_made(target, &client.first_token(&name).await?),
        OfTokens::Create {
            name,
            rights,
            ttl,
            certificate,
            requests_per_second,
            waiting,
            streams,
            locks,
            sessions,
        } => {
            let request = AccessTokenRequest {
                name,
                rights,
                certificate: certificate.then_some(true),
                ttl_ms: ttl.map(ms),
                requests_per_second,
                waiting,
                streams,
                locks,
                sessions,
            };
            show_made(target, &client.create_token(&request).await?);
        }
        OfTokens::List => target.show(&client.tokens().await?, table),
        OfTokens::Revoke { id } => {
            let revoked = client.revoke_token(&id).await?;
            target.show(&revoked, |it| format!("{} is revoked\n", it.token_id));
        }
    }
    Ok(())
}

/// The secret alone goes to standard output, so that a file of it is good for `--token-file`.
fn show_made(target: &Target, token: &AccessToken) {
    target.show(token, made);
    if token.access_token.is_some() {
        let _closed_pipe = writeln!(
            std::io::stderr(),
            "This is shown once. Keep it in a file that only `{}` can read and name that with \
             --token-file,\nor put it into OARLOCK_ACCESS_TOKEN. Its id is {}.",
            token.name,
            token.token_id
        );
    }
}

/// The secret alone goes to standard output.
fn break_glass() -> Result<(), Failure> {
    let mut chance = [0; 32];
    let failed = |error| Failure::usage(format!("make a token: {error}"));
    getrandom::fill(&mut chance).map_err(failed)?;
    let part =
        |at: usize| chance[at..at + 16].iter().fold(0, |all, it| (all << 8) | u128::from(*it));
    let key = Key::new(part(0), part(16));
    print(&format!("{}\n", key.word()));
    let _closed_pipe = writeln!(
        std::io::stderr(),
        "This is shown once. Lock it away. To let it in, put this into the configuration of a node and \
         send it SIGHUP;\ntake the line out and send SIGHUP again when a new token is made.\n\n\
         break_glass_hash = \"{}\"",
        hex(&key.hash())
    );
    Ok(())
}

fn made(token: &AccessToken) -> String {
    match &token.access_token {
        Some(secret) => format!("{secret}\n"),
        None => {
            format!("certificates of `{}` have these rights; id {}\n", token.name, token.token_id)
        }
    }
}

fn table(tokens: &AccessTokens) -> String {
    let mut text =
        format!("{:<22} {:<16} {:<12} {:<14} RIGHTS\n", "ID", "NAME", "KIND", "EXPIRES IN");
    for token in &tokens.tokens {
        let AccessTokenInfo { token_id, name, certificate, rights, expires_in_ms, .. } = token;
        let kind = if *certificate { "certificate" } else { "token" };
        let expires = match expires_in_ms {
            None => "-".to_owned(),
            Some(0) => "expired".to_owned(),
            Some(left) => for_people(left - left % 1000),
        };
        let rights = rights.join(" ");
        let _infallible =
            writeln!(text, "{token_id:<22} {name:<16} {kind:<12} {expires:<14} {rights}");
    }
    text
}
