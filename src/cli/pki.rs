//! `oarlock pki`: a private authority for those who have none. It signs certificates of nodes and
//! clients on the machine where it is kept; nothing of it is sent anywhere.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::UnixTime;

use crate::cli::{Failure, print};
use crate::tls::material::{Unusable, certificates, judge};
use crate::tls::validity::Validity;
use crate::tls::{name, revoked};

/// A clock that is slow by less than this still takes a new certificate.
const BACKDATED: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// What the authority does.
#[derive(Debug, Subcommand)]
pub(super) enum OfPki {
    /// Make the authority of a cluster: ca.crt for everybody, ca.key for nobody else
    Init {
        #[command(flatten)]
        place: Place,
        /// Name of the cluster, as in the configuration of its nodes
        #[arg(long, default_value = "oarlock")]
        cluster_name: String,
        /// How long it is good for
        #[arg(long, default_value_t = 3650)]
        days: u32,
    },
    /// Make, or renew, the certificate of a node: for its peers, and for clients at these hosts
    Node {
        #[command(flatten)]
        place: Place,
        /// Id of the node
        id: u64,
        /// A name or IP address at which clients reach the node; loopback is always among them
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// How long it is good for
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
    /// Revoke certificates: make, or extend, the list of those that nodes refuse
    ///
    /// Without a certificate the list is made anew, for another while. All certificates of a key have
    /// one number, so those that it was renewed by are revoked with it; the next one has a new key.
    Revoke {
        #[command(flatten)]
        place: Place,
        /// Files of certificates, or their names in the directory: client-deploy, node-3
        #[arg(value_name = "CERTIFICATE")]
        certificates: Vec<String>,
        /// Where the list goes [default: ca.crl in the directory]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// After how long it should be made anew; it stays in force after that
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
    },
    /// Make, or renew, the certificate of a client
    Client {
        #[command(flatten)]
        place: Place,
        /// The name to which `oarlock tokens create --certificate` gives rights
        name: String,
        /// How long it is good for
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
}

/// Where the authority is kept.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Directory of the authority and of what it signs
    #[arg(long, default_value = "pki", value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(of: &OfPki) -> Result<(), Failure> {
    match of {
        OfPki::Init { place, cluster_name, days } => init(&place.dir, cluster_name, *days),
        OfPki::Node { place, id, hosts, days } => node(&place.dir, *id, hosts, *days),
        OfPki::Client { place, name, days } => client(&place.dir, name, *days),
        OfPki::Revoke { place, certificates, out, days } => {
            let beside = || place.dir.join("ca.crl");
            let out = out.clone().unwrap_or_else(beside);
            revoke(&place.dir, certificates, &out, *days)
        }
    }
}

fn failed(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("{what}: {error}"))
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Failure + '_ {
    move |error| failed(&path.display().to_string(), error)
}

/// The same each time, so that what is signed later names it as it is.
fn authority(cluster_name: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("oarlock {cluster_name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    good_for(&mut params, days);
    params
}

/// Since 1970.
fn now() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "certificates are good by the wall clock")]
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn good_for(params: &mut CertificateParams, days: u32) {
    let now = now();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + DAY * days;
}

fn init(dir: &Path, cluster_name: &str, days: u32) -> Result<(), Failure> {
    let settings = format!("cluster_name = {cluster_name:?}");
    crate::config::Config::parse(&settings, []).map_err(|error| failed("--cluster-name", error))?;
    fs::create_dir_all(dir).map_err(at(dir))?;
    if dir.join("ca.key").exists() {
        return Err(Failure::usage(format!(
            "{} holds an authority already; a new one would not know what it signed",
            dir.display()
        )));
    }
    let key = KeyPair::generate().map_err(|error| failed("make a key", error))?;
    let signed = authority(cluster_name, days).self_signed(&key);
    let certificate = signed.map_err(|error| failed("sign", error))?;
    write(&dir.join("cluster-name"), cluster_name, 0o644)?;
    write(&dir.join("ca.crt"), &certificate.pem(), 0o644)?;
    write(&dir.join("ca.key"), &key.serialize_pem(), 0o600)?;
    print(&format!(
        "{0}/ca.crt is for every node and client. {0}/ca.key signs: keep it where no node is.\n",
        dir.display()
    ));
    Ok(())
}

fn node(dir: &Path, id: u64, hosts: &[String], days: u32) -> Result<(), Failure> {
    let (cluster_name, _) = kept(dir)?;
    let mut params = CertificateParams::default();
    let own = name::of_node(id, &cluster_name);
    params.distinguished_name.push(DnType::CommonName, own.clone());
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let always = [own.as_str(), "localhost", "127.0.0.1", "::1"];
    for host in always.into_iter().chain(hosts.iter().map(String::as_str)) {
        params.subject_alt_names.push(alternative(host)?);
    }
    let files = sign(dir, &format!("node-{id}"), params, days)?;
    let ca = dir.join("ca.crt");
    print(&format!(
        "In the configuration of node {id}, for clients and peers:\n\n  cluster_name = \"{cluster_name}\"\n  \
         tls_cert = \"{0}\"\n  tls_key = \"{1}\"\n  tls_client_ca = \"{2}\"\n  peer_tls_cert = \"{0}\"\n  \
         peer_tls_key = \"{1}\"\n  peer_tls_ca = \"{2}\"\n",
        files.0.display(),
        files.1.display(),
        ca.display()
    ));
    Ok(())
}

fn alternative(host: &str) -> Result<SanType, Failure> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let name = host.try_into().map_err(|error| failed(&format!("--host {host}"), error))?;
    Ok(SanType::DnsName(name))
}

fn client(dir: &Path, client: &str, days: u32) -> Result<(), Failure> {
    if !crate::auth::credential::is_name(client) {
        return Err(Failure::usage(
            "the name of a client is letters, digits, dots, hyphens and underscores",
        ));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, client);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let uri = name::of_client(client).try_into().map_err(|error| failed("the name", error))?;
    params.subject_alt_names.push(SanType::URI(uri));
    let files = sign(dir, &format!("client-{client}"), params, days)?;
    print(&format!(
        "oarlock --ca {} --cert {} --key {} … is `{client}`; give it rights with\n\n  oarlock tokens \
         create {client} --certificate --right …\n",
        dir.join("ca.crt").display(),
        files.0.display(),
        files.1.display()
    ));
    Ok(())
}

/// Keeps the numbers of what was revoked in a file of its own, `revoked`, and signs a list of them all.
fn revoke(dir: &Path, named: &[String], out: &Path, days: u32) -> Result<(), Failure> {
    let (cluster_name, ca_key) = kept(dir)?;
    let kept = dir.join("revoked");
    let mut lines = match fs::read_to_string(&kept) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(at(&kept)(error)),
    };
    let mut keys = Vec::new();
    for name in named {
        let path =
            if Path::new(name).exists() { name.into() } else { dir.join(format!("{name}.crt")) };
        let serial = serial(dir, &path)?;
        let known = |line: &str| line.split(' ').next() == Some(serial.as_str());
        if !lines.lines().any(known) {
            let _infallible = writeln!(lines, "{serial} {} {name}", now().as_secs());
        }
        keys.push(path.with_extension("key"));
    }
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let listed = |line: &str| {
        let mut words = line.split(' ');
        let number = bytes(words.next()?)?;
        let at = Duration::from_secs(words.next()?.parse().ok()?);
        Some(RevokedCertParams {
            serial_number: SerialNumber::from_slice(&number),
            revocation_time: epoch + at,
            reason_code: None,
            invalidity_date: None,
        })
    };
    let revoked_certs: Option<Vec<_>> = lines.lines().map(listed).collect();
    let revoked_certs = revoked_certs
        .ok_or_else(|| Failure::usage(format!("{} is not as it was written", kept.display())))?;
    let count = revoked_certs.len();
    let list = CertificateRevocationListParams {
        this_update: epoch + now().saturating_sub(BACKDATED),
        next_update: epoch + now() + DAY * days,
        crl_number: SerialNumber::from(now().as_secs()),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&Issuer::new(authority(&cluster_name, days), ca_key));
    let list = list.and_then(|list| list.pem()).map_err(|error| failed("sign", error))?;
    write(&kept, &lines, 0o644)?;
    write(out, &list, 0o644)?;
    for key in keys.iter().filter(|key| key.starts_with(dir) && key.exists()) {
        fs::rename(key, key.with_extension("key-revoked")).map_err(at(key))?;
    }
    print(&format!(
        "{count} on the list. Put it on every node, where the list before it was, or name it there:\n\n  \
         tls_revoked = \"{0}\"\n  peer_tls_revoked = \"{0}\"\n",
        out.display()
    ));
    Ok(())
}

/// The number of a certificate that this authority signed, in hexadecimal digits. On its list another
/// one's number would revoke nothing, or the certificate of somebody else.
fn serial(dir: &Path, path: &Path) -> Result<String, Failure> {
    let unusable = |Unusable(why)| Failure::usage(why);
    let text = fs::read(path).map_err(at(path))?;
    let chain = certificates(path, &text).map_err(unusable)?;
    let ca = dir.join("ca.crt");
    let text = fs::read(&ca).map_err(at(&ca))?;
    // At its own first second: one that is over may be revoked still.
    let from_s = chain.first().and_then(Validity::of).map(|it| it.from_s);
    let from = Duration::from_secs(from_s.and_then(|it| u64::try_from(it).ok()).unwrap_or(0));
    let judged = judge((&ca, &text), &chain, UnixTime::since_unix_epoch(from)).map_err(unusable)?;
    judged.map_err(|error| {
        Failure::usage(format!(
            "{} was not signed by the authority in {} for a node or a client ({error}): revoke it \
             where it was made (--dir)",
            path.display(),
            dir.display()
        ))
    })?;
    let serial = chain.first().and_then(revoked::serial);
    let serial = serial.ok_or_else(|| failed(&path.display().to_string(), "it has no number"))?;
    let mut digits = String::new();
    for byte in serial {
        let _infallible = write!(digits, "{byte:02x}");
    }
    Ok(digits)
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|it| u8::from_str_radix(std::str::from_utf8(it).ok()?, 16).ok()).collect()
}

/// The cluster's name, and the key of its authority.
fn kept(dir: &Path) -> Result<(String, KeyPair), Failure> {
    let read = |file: &str| {
        let path = dir.join(file);
        let text = fs::read_to_string(&path);
        text.map_err(|error| {
            failed(&format!("{} (made by `oarlock pki init`)", path.display()), error)
        })
    };
    let key = KeyPair::from_pem(&read("ca.key")?).map_err(|error| failed("ca.key", error))?;
    Ok((read("cluster-name")?.trim().to_owned(), key))
}

/// Signs, under the key that is there already if this is a renewal.
fn sign(
    dir: &Path,
    file: &str,
    mut params: CertificateParams,
    days: u32,
) -> Result<(PathBuf, PathBuf), Failure> {
    let (cluster_name, ca_key) = kept(dir)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    good_for(&mut params, days);
    let (certificate_path, key_path) =
        (dir.join(format!("{file}.crt")), dir.join(format!("{file}.key")));
    let key = match fs::read_to_string(&key_path) {
        Ok(text) => KeyPair::from_pem(&text),
        Err(_) => KeyPair::generate(),
    };
    let key = key.map_err(|error| failed(&key_path.display().to_string(), error))?;
    let issuer = Issuer::new(authority(&cluster_name, days), ca_key);
    let signed = params.signed_by(&key, &issuer).map_err(|error| failed("sign", error))?;
    write(&key_path, &key.serialize_pem(), 0o600)?;
    write(&certificate_path, &signed.pem(), 0o644)?;
    Ok((certificate_path, key_path))
}

/// Whole or not at all: a node may read it at any moment.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let beside = path.with_extension("new");
    let _left_by_a_crash = fs::remove_file(&beside);
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside);
    let mut file = file.map_err(at(&beside))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.and_then(|()| fs::rename(&beside, path)).map_err(at(path))
}
