//! The certificates of one configuration: whether a node could use them, and others would take them.

use std::path::Path;

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Finding, fail, pass, warn};
use crate::config::Config;
use crate::tls::material::{Callers, Files, Material, judge};
use crate::tls::validity::{Validity, now_s};
use crate::tls::{name, revoked};

const RENEW: &str = "renew it with `oarlock pki node` where the authority is, and put it in place: it is used \
                     within seconds, without a restart";

/// A finding for each certificate that is configured.
pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let api = (!config.tls_cert.is_empty()).then(|| {
        let files = Files::of(
            &config.tls_cert,
            &config.tls_key,
            &config.tls_client_ca,
            &config.tls_revoked,
        );
        of("api cert", files, Callers::Known, &|leaf, _| named_as_advertised(config, leaf))
    });
    let peers = (!config.peer_tls_cert.is_empty()).then(|| {
        let files = Files::of(
            &config.peer_tls_cert,
            &config.peer_tls_key,
            &config.peer_tls_ca,
            &config.peer_tls_revoked,
        );
        let signed_by = files.authority.clone();
        of("peer cert", files, Callers::Certified, &|leaf, chain| {
            named_as_node(config, leaf)?;
            signed_by.as_deref().map_or(Ok(()), |path| signed(path, chain))
        })
    });
    let lists = [("api revoked", &config.tls_revoked), ("peer revoked", &config.peer_tls_revoked)];
    let lists = lists.into_iter().filter(|(_, path)| !path.is_empty());
    let lists = lists.map(|(check, path)| list(check, Path::new(path)));
    api.into_iter().chain(peers).chain(lists).collect()
}

/// Whether a list of revoked certificates can be read, and is the newest by its own word.
fn list(check: &'static str, path: &Path) -> Finding {
    let told = path.display();
    let text = std::fs::read(path).map_err(|error| format!("{told}: {error}"));
    let lists = text.and_then(|text| revoked::lists(path, &text).map_err(|error| error.0));
    let lists = match lists {
        Ok(lists) => lists,
        Err(why) => {
            return fail(
                check,
                why,
                "make it anew with `oarlock pki revoke`, readable by the service",
            );
        }
    };
    let known: Option<Vec<Validity>> = lists.iter().map(revoked::current).collect();
    let next = known.and_then(|all| all.into_iter().min_by_key(|it| it.to_s));
    listed(check, &told.to_string(), next, now_s())
}

/// Of the list that is over first; none where one does not say.
fn listed(check: &'static str, path: &str, next: Option<Validity>, now_s: i64) -> Finding {
    const RENEW: &str = "make it anew with `oarlock pki revoke` where the authority is, and put it in \
                         place; until then what was revoked since is let in";
    match next {
        None => warn(check, format!("{path} does not say until when it is the newest"), RENEW),
        Some(next) if next.left_s(now_s) <= 0 => {
            let since = span(-next.left_s(now_s));
            warn(check, format!("{path} should have been made anew {since} ago"), RENEW)
        }
        Some(next) if next.is_nearly_over(now_s) => {
            let left = span(next.left_s(now_s));
            warn(check, format!("{path} should be made anew within {left}"), RENEW)
        }
        Some(next) => {
            let left = span(next.left_s(now_s));
            pass(check, format!("{path} is the newest for {left}"))
        }
    }
}

/// Takes the certificate, and its whole chain.
type Judge<'a> = &'a dyn Fn(&CertificateDer<'_>, &[CertificateDer<'_>]) -> Result<(), Finding>;

fn of(check: &'static str, files: Files, callers: Callers, also: Judge<'_>) -> Finding {
    let path = files.certificate.display().to_string();
    let material = match Material::read(files, callers, b"doctor") {
        Ok(material) => material,
        Err(error) => {
            let advice = "certificate, key and authority must be readable by the service, in PEM, and \
                          belong together";
            return fail(check, error.0, advice);
        }
    };
    let chain = material.chain();
    let judged = chain.first().map_or(Ok(()), |leaf| also(leaf, &chain));
    let lasting = lasting(check, &path, material.validity(), now_s());
    match judged {
        // Over or not yet valid is said better here than by who checks the signature.
        Err(finding) if lasting.verdict != super::Verdict::Fail => {
            Finding { check, found: format!("{path}: {}", finding.found), ..finding }
        }
        Err(_) | Ok(()) => lasting,
    }
}

/// How long it is good.
fn lasting(check: &'static str, path: &str, validity: Validity, now_s: i64) -> Finding {
    let left_s = validity.left_s(now_s);
    if left_s <= 0 {
        fail(check, format!("{path} is over since {}", span(-left_s)), RENEW)
    } else if validity.from_s > now_s {
        let found = format!("{path} is not valid before another {} s", validity.from_s - now_s);
        fail(
            check,
            found,
            "set the clock of this machine, or the one that signed it; else renew it",
        )
    } else if validity.is_nearly_over(now_s) {
        warn(check, format!("{path} is over in {}", span(left_s)), RENEW)
    } else {
        pass(check, format!("{path} is good for {}", span(left_s)))
    }
}

/// Days, or hours where those would say little.
fn span(seconds: i64) -> String {
    match seconds {
        ..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Whether peers would take it for this node.
fn named_as_node(config: &Config, leaf: &CertificateDer<'_>) -> Result<(), Finding> {
    let wanted = name::of_node(config.node_id, &config.cluster_name);
    match name::node_in(leaf, &config.cluster_name) {
        Some(id) if id == config.node_id => Ok(()),
        Some(id) => Err(fail(
            "",
            format!("it is of node {id}, and peers look for {wanted}"),
            "the file of another node was copied: give each node its own",
        )),
        None => Err(fail(
            "",
            format!("it names no node of this cluster; peers look for {wanted}"),
            "is cluster_name right? `oarlock pki node` makes the right one",
        )),
    }
}

/// Whether clients would take it for the address at which they are told to come.
fn named_as_advertised(config: &Config, leaf: &CertificateDer<'_>) -> Result<(), Finding> {
    let listed = config.members.iter().find(|member| member.id == config.node_id);
    let address = listed.map_or_else(|| config.advertised().1, |member| member.api_address.clone());
    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let fits = webpki::EndEntityCert::try_from(leaf).ok().zip(ServerName::try_from(host).ok());
    let fits =
        fits.is_some_and(|(leaf, host)| leaf.verify_is_valid_for_subject_name(&host).is_ok());
    if fits {
        return Ok(());
    }
    Err(warn(
        "",
        format!("it is not for {host}, where clients are told to come"),
        "make it anew with `oarlock pki node … --host` and every name that clients use",
    ))
}

/// Whether peers with the same authority would take it now.
fn signed(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(), Finding> {
    let advice = "sign the certificates of all nodes with one authority, and configure that on all";
    let foreign = |why: &dyn std::fmt::Display| {
        fail("", format!("peers refuse it: {why} ({})", path.display()), advice)
    };
    let text = std::fs::read(path).map_err(|error| foreign(&error))?;
    let judged = judge((path, &text), chain, UnixTime::now()).map_err(|error| foreign(&error))?;
    judged.map_err(|error| foreign(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn a_list_of_revoked_certificates_that_should_be_newer_is_warned_of() {
        let judged = |now_s: i64| {
            let dates = Validity { from_s: 0, to_s: 300 * 86_400 };
            listed("api revoked", "ca.crl", Some(dates), now_s)
        };
        assert_eq!(judged(86_400).verdict, Verdict::Pass);
        let soon = judged(290 * 86_400);
        assert!(soon.verdict == Verdict::Warn && soon.found.contains("10 days"), "{soon:?}");
        assert!(judged(310 * 86_400).found.contains("9 days ago"));
        assert_eq!(listed("api revoked", "ca.crl", None, 0).verdict, Verdict::Warn);
    }

    #[test]
    fn a_certificate_that_is_short_lived_by_design_is_warned_of_in_its_last_third_alone() {
        let judged = |life_h: i64, left_h: i64| {
            let validity = Validity { from_s: 0, to_s: life_h * 3_600 };
            lasting("api cert", "a.crt", validity, (life_h - left_h) * 3_600)
        };
        assert_eq!(judged(24, 20).verdict, Verdict::Pass);
        let soon = judged(24, 7);
        assert!(soon.verdict == Verdict::Warn && soon.found.contains("7 hours"), "{soon:?}");
        assert_eq!(judged(24 * 365, 24 * 40).verdict, Verdict::Pass);
        assert_eq!(judged(24 * 365, 24 * 29).verdict, Verdict::Warn);
        assert_eq!(judged(24, -1).verdict, Verdict::Fail);
    }
}
