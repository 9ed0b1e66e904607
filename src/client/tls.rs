//! TLS to the nodes: their certificates are checked against one authority that the user names.

use std::fmt::Display;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::BadIdentity;

/// A certificate of a client and its key, in PEM.
#[derive(Clone, Copy)]
pub struct Certified<'a> {
    /// The certificate, with those between it and the authority after it.
    pub certificate: &'a [u8],
    /// Its key.
    pub key: &'a [u8],
}

fn bad(what: &str) -> impl FnOnce(&dyn Display) -> BadIdentity {
    move |why| BadIdentity(format!("{what}: {why}"))
}

fn certificates(text: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, BadIdentity> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match all {
        Ok(all) if all.is_empty() => Err(bad(what)(&"it holds no certificate in PEM")),
        Ok(all) => Ok(all),
        Err(error) => Err(bad(what)(&error)),
    }
}

/// TLS 1.3, to whoever has a certificate of this authority for the host of its endpoint.
pub(crate) fn config(
    authority: &[u8],
    certified: Option<Certified<'_>>,
) -> Result<Arc<ClientConfig>, BadIdentity> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority, "the authority")? {
        roots.add(certificate).map_err(|error| bad("the authority")(&error))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| bad("TLS")(&error))?
        .with_root_certificates(roots);
    let mut config = match certified {
        None => builder.with_no_client_auth(),
        Some(Certified { certificate, key }) => {
            let chain = certificates(certificate, "the certificate")?;
            let key = PrivateKeyDer::from_pem_slice(key);
            let key = key.map_err(|error| bad("the key")(&error))?;
            let config = builder.with_client_auth_cert(chain, key);
            config.map_err(|error| bad("the certificate and its key")(&error))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The handshake with the node at that `host:port`.
pub(crate) async fn shake(
    config: &Arc<ClientConfig>,
    address: &str,
    stream: TcpStream,
) -> std::io::Result<TlsStream<TcpStream>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}
