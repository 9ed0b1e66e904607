//! Certificates and keys from files, as rustls takes them; read again when the files change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};
use tokio::sync::watch;

use crate::tls::revoked::{self, Changes};
use crate::tls::validity::Validity;

/// Whom a listener lets in that has an authority for callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Whoever shows a certificate of the authority, and whoever shows none.
    Known,
    /// Only with a certificate of the authority.
    Certified,
}

/// Where the files are.
#[derive(Debug, Clone)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The authority of the other end.
    pub authority: Option<PathBuf>,
    /// What that authority revoked.
    pub revoked: Option<PathBuf>,
}

impl Files {
    /// As they are configured; an empty authority is none, and so is an empty list.
    pub fn of(certificate: &str, key: &str, authority: &str, revoked: &str) -> Self {
        let some = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
        let (authority, revoked) = (some(authority), some(revoked));
        Self { certificate: certificate.into(), key: key.into(), authority, revoked }
    }
}

/// Why files cannot be used; the text says which, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable(pub String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

/// What the files held, byte for byte, so that a change is seen however it was made.
type Contents = [Vec<u8>; 4];

/// What new handshakes use.
struct Current {
    contents: Contents,
    server: Arc<ServerConfig>,
    client: Option<Arc<ClientConfig>>,
    /// Who checks what others show.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    chain: Vec<CertificateDer<'static>>,
    validity: Validity,
}

/// The certificates of one listener. The lock is the standard one: never held across an await.
pub struct Material {
    files: Files,
    callers: Callers,
    protocol: &'static [u8],
    current: RwLock<Current>,
    /// Tells connections that something changed.
    changed: watch::Sender<()>,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Material {
    /// Reads the files; `protocol` is what is agreed on in the handshake.
    pub fn read(
        files: Files,
        callers: Callers,
        protocol: &'static [u8],
    ) -> Result<Arc<Self>, Unusable> {
        let current = current(&files, contents(&files)?, callers, protocol)?;
        let (current, changed) = (RwLock::new(current), watch::Sender::new(()));
        Ok(Arc::new(Self { files, callers, protocol, current, changed }))
    }

    /// For the next connection that comes in.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).server)
    }

    /// For the next connection that goes out; none without an authority for the other end.
    pub fn client(&self) -> Option<Arc<ClientConfig>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).client.clone()
    }

    /// Reads the files again; whether they had changed. If they cannot be used, what was read
    /// before stays. Blocks for a read of some small files.
    pub fn refresh(&self) -> Result<bool, Unusable> {
        let contents = contents(&self.files)?;
        let is_known = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            current.contents == contents
        };
        if is_known {
            return Ok(false);
        }
        let fresh = current(&self.files, contents, self.callers, self.protocol)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.changed.send_replace(());
        Ok(true)
    }

    /// What happens from now on to what somebody is about to show.
    pub fn changes(self: &Arc<Self>) -> Changes {
        Changes::new(Arc::clone(self), self.changed.subscribe())
    }

    /// Whether the first of a chain that was taken once is revoked by now.
    pub fn has_revoked(&self, chain: &[CertificateDer<'_>]) -> bool {
        if self.files.revoked.is_none() {
            return false;
        }
        let verifier = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            current.verifier.clone()
        };
        let Some((verifier, (leaf, between))) = verifier.zip(chain.split_first()) else {
            return false;
        };
        is_refused_for(&CertificateError::Revoked, verifier.as_ref(), leaf, between)
    }

    /// In which the own certificate, and those between it and the authority, are good.
    pub fn validity(&self) -> Validity {
        self.current.read().unwrap_or_else(PoisonError::into_inner).validity
    }

    /// The own certificate, with those between it and the authority.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).chain.clone()
    }

    /// Where the certificate is, for logs.
    pub fn path(&self) -> &Path {
        &self.files.certificate
    }
}

fn contents(files: &Files) -> Result<Contents, Unusable> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| Unusable(format!("read {}: {error}", path.display())))
    };
    let some = |path: &Option<PathBuf>| path.as_deref().map_or(Ok(Vec::new()), read);
    let (authority, revoked) = (some(&files.authority)?, some(&files.revoked)?);
    Ok([read(&files.certificate)?, read(&files.key)?, authority, revoked])
}

/// Certificates of a PEM text, at least one.
pub fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let bad = |why: &dyn fmt::Display| Unusable(format!("{}: {why}", path.display()));
    match all {
        Ok(all) if all.is_empty() => Err(bad(&"it holds no certificate (BEGIN CERTIFICATE)")),
        Ok(all) => Ok(all),
        Err(error) => Err(bad(&format!("its certificate cannot be read ({error})"))),
    }
}

/// The authority in a PEM text.
pub fn authority(path: &Path, text: &[u8]) -> Result<Arc<RootCertStore>, Unusable> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, text)? {
        let added = roots.add(certificate);
        added.map_err(|error| Unusable(format!("{}: {error}", path.display())))?;
    }
    Ok(Arc::new(roots))
}

/// Whether who has that authority alone, a file's path and text, would take a certificate as a
/// client's or a peer's at that time: the leaf first, then what stands between it and the authority.
pub fn judge(
    (path, text): (&Path, &[u8]),
    chain: &[CertificateDer<'_>],
    at: UnixTime,
) -> Result<Result<(), Error>, Unusable> {
    let roots = authority(path, text)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
    let verifier = verifier.map_err(|error| Unusable(format!("{}: {error}", path.display())))?;
    let Some((leaf, between)) = chain.split_first() else {
        return Ok(Err(Error::NoCertificatesPresented));
    };
    Ok(verifier.verify_client_cert(leaf, between, at).map(drop))
}

fn current(
    files: &Files,
    contents: Contents,
    callers: Callers,
    protocol: &[u8],
) -> Result<Current, Unusable> {
    let [certificate, key, roots, lists] = &contents;
    let chain = certificates(&files.certificate, certificate)?;
    let validity = Validity::of_chain(&chain).ok_or_else(|| {
        Unusable(format!("{}: it does not say how long it is good", files.certificate.display()))
    })?;
    let of_key = |error: &dyn fmt::Display| {
        Unusable(format!("{}: its key cannot be used ({error})", files.key.display()))
    };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| of_key(&error))?;
    let roots = files.authority.as_ref().map(|path| authority(path, roots)).transpose()?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Unusable(error.to_string()))?;
    let lists = files.revoked.as_ref().map(|path| revoked::lists(path, lists)).transpose()?;
    let lists = lists.unwrap_or_default();
    let verifier = verifier(files, roots.as_ref(), &lists, callers)?;
    if let Some(verifier) = &verifier
        && callers == Callers::Certified
    {
        fits(files, verifier.as_ref(), &chain)?;
    }
    let builder = match &verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let server = builder.with_single_cert(chain.clone(), key.clone_key());
    let mut server = server.map_err(|error| {
        Unusable(format!("{} and its key: {error}", files.certificate.display()))
    })?;
    server.alpn_protocols = vec![protocol.to_vec()];
    // Whoever comes back shows its certificate again: it may be over by then.
    server.send_tls13_tickets = 0;
    let client = roots.map(|roots| {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Unusable(error.to_string()))?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .with_crls(lists)
            .only_check_end_entity_revocation()
            .build();
        let servers = servers.map_err(|error| unfit(files, &error))?;
        let client = builder.with_webpki_verifier(servers);
        let client = client.with_client_auth_cert(chain.clone(), key);
        let mut client = client.map_err(|error| of_key(&error))?;
        client.alpn_protocols = vec![protocol.to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Arc::new(client))
    });
    let (server, client) = (Arc::new(server), client.transpose()?);
    Ok(Current { contents, server, client, verifier, chain, validity })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Who checks the certificates of callers, if anybody does.
fn verifier(
    files: &Files,
    roots: Option<&Arc<RootCertStore>>,
    lists: &[CertificateRevocationListDer<'static>],
    callers: Callers,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, Unusable> {
    let Some(roots) = roots else { return Ok(None) };
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider())
        .with_crls(lists.iter().cloned())
        .only_check_end_entity_revocation();
    let builder = match callers {
        Callers::Known => builder.allow_unauthenticated(),
        Callers::Certified => builder,
    };
    builder.build().map(Some).map_err(|error| unfit(files, &error))
}

/// What is wrong with authority and lists together.
fn unfit(files: &Files, error: &dyn fmt::Display) -> Unusable {
    let path = files.revoked.as_ref().or(files.authority.as_ref()).unwrap_or(&files.certificate);
    Unusable(format!("{}: {error}", path.display()))
}

/// Refuses lists that say nothing of the authority that all nodes have: no peer would be let in.
fn fits(
    files: &Files,
    verifier: &dyn ClientCertVerifier,
    chain: &[CertificateDer<'_>],
) -> Result<(), Unusable> {
    let Some((leaf, between)) = chain.split_first() else { return Ok(()) };
    match verifier.verify_client_cert(leaf, between, UnixTime::now()) {
        Err(Error::InvalidCertificate(CertificateError::UnknownRevocationStatus)) => Err(unfit(
            files,
            &"it has no list of the authority that signed this node's certificate",
        )),
        Err(Error::InvalidCertRevocationList(error)) => Err(unfit(
            files,
            &format!(
                "its list is not of the authority that signed this node's certificate ({error:?})"
            ),
        )),
        Err(_) | Ok(_) => Ok(()),
    }
}

fn is_refused_for(
    problem: &CertificateError,
    verifier: &dyn ClientCertVerifier,
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
) -> bool {
    let judged = verifier.verify_client_cert(leaf, between, UnixTime::now());
    matches!(judged, Err(Error::InvalidCertificate(found)) if found == *problem)
}
