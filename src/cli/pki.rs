//! `oarlock pki`: a private authority for those who have none. It signs certificates of nodes and
//! clients on the machine where it is kept; nothing of it is sent anywhere.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::cli::{Failure, print};
use crate::tls::name;

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

fn good_for(params: &mut CertificateParams, days: u32) {
    #[expect(clippy::disallowed_methods, reason = "certificates are good by the wall clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
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
