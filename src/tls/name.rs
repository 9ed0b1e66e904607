//! The names in certificates, and which of them means what.
//!
//! ```text
//!  peer    DNS  node-<id>.<cluster name>.oarlock     one node of one cluster
//!  client  URI  oarlock:client/<name>                one identity, whose rights the cluster keeps
//! ```

use rustls::pki_types::CertificateDer;

const CLIENT: &str = "oarlock:client/";

/// The DNS name of a node among its peers.
pub fn of_node(node_id: u64, cluster_name: &str) -> String {
    format!("node-{node_id}.{cluster_name}.oarlock")
}

/// The URI of a client's identity.
pub fn of_client(name: &str) -> String {
    format!("{CLIENT}{name}")
}

/// The identity that a verified client certificate names.
pub fn client_in(certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut names = parsed.valid_uri_names();
    names.find_map(|uri| uri.strip_prefix(CLIENT)).map(str::to_owned)
}

/// The node that a verified certificate names, if it is one of this cluster.
pub fn node_in(certificate: &CertificateDer<'_>, cluster_name: &str) -> Option<u64> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    let suffix = format!(".{cluster_name}.oarlock");
    let mut names = parsed.valid_dns_names();
    names.find_map(|name| name.strip_prefix("node-")?.strip_suffix(&suffix)?.parse().ok())
}
