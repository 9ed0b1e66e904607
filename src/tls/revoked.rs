//! Lists of revoked certificates, one or more in a PEM file, each signed by the authority of what it
//! lists; and what is read of lists and certificates that rustls tells nobody.
//!
//! Only the certificate that somebody shows is looked up, not the authorities between. One whose
//! authority has no list in the file is refused, so that a list of the wrong authority does not pass
//! for one that revokes nothing. A list that is older than it should be stays in force: what it
//! revoked stays revoked, and refusing everybody would be worse.
//!
//! ```text
//!  CertificateList { tbs { version?, algorithm, issuer, this update, next update?, … }, … }
//! ```

use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use tokio::sync::watch;

use crate::tls::material::{Material, Unusable};
use crate::tls::validity::{SEQUENCE, VERSION, Validity, any, element, seconds};

const INTEGER: u8 = 0x02;

/// The lists in a PEM text, at least one.
pub fn lists(
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, Unusable> {
    let bad = |why: &str| Unusable(format!("{}: {why}", path.display()));
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(text).collect();
    match all {
        Ok(all) if all.is_empty() => {
            Err(bad("it holds no list of revoked certificates (BEGIN X509 CRL)"))
        }
        Ok(all) => Ok(all),
        Err(error) => Err(bad(&format!("its list cannot be read ({error})"))),
    }
}

/// From when to when a list is the newest by its own word; `None` for what is none, or does not say.
pub fn current(list: &CertificateRevocationListDer<'_>) -> Option<Validity> {
    let (whole, _) = element(list, SEQUENCE)?;
    let (tbs, _) = element(whole, SEQUENCE)?;
    let rest = element(tbs, INTEGER).map_or(tbs, |(_, rest)| rest);
    let algorithm = any(rest)?.2;
    let issuer = any(algorithm)?.2;
    let (from_tag, from, rest) = any(issuer)?;
    let (to_tag, to, _) = any(rest)?;
    Some(Validity { from_s: seconds(from_tag, from)?, to_s: seconds(to_tag, to)? })
}

/// The number under which its authority knows a certificate.
pub fn serial(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (whole, _) = element(certificate, SEQUENCE)?;
    let (tbs, _) = element(whole, SEQUENCE)?;
    let rest = element(tbs, VERSION).map_or(tbs, |(_, rest)| rest);
    element(rest, INTEGER).map(|(number, _)| number.to_vec())
}

/// Why a connection ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    RanOut,
    Revoked,
}

/// What a connection knows of later changes; taken before its handshake, so that none is missed.
pub struct Changes {
    material: Arc<Material>,
    told: watch::Receiver<()>,
}

impl Changes {
    pub(super) fn new(material: Arc<Material>, told: watch::Receiver<()>) -> Self {
        Self { material, told }
    }

    /// Is ready when a certificate that was shown is good no longer. `None` if it does not say how long
    /// it is good.
    pub fn over(mut self, chain: Vec<CertificateDer<'static>>) -> Option<BoxFuture<'static, Over>> {
        let validity = Validity::of_chain(&chain)?;
        let revoked = async move {
            while self.told.changed().await.is_ok() {
                if self.material.has_revoked(&chain) {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        Some(
            async move {
                tokio::select! {
                    biased;
                    () = validity.over() => Over::RanOut,
                    () = revoked => Over::Revoked,
                }
            }
            .boxed(),
        )
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair,
        SerialNumber,
    };

    use super::*;

    #[test]
    fn the_dates_of_a_list_and_the_number_of_a_certificate_are_read() {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["a".to_owned()]).expect("a name");
        params.serial_number = Some(SerialNumber::from_slice(&[0x81, 2, 3]));
        let signed = params.self_signed(&key).expect("signed");
        // A leading zero says that the number is not negative.
        assert_eq!(serial(signed.der()), Some(vec![0, 0x81, 2, 3]));
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2060, 1, 1),
            crl_number: SerialNumber::from(7_u64),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&Issuer::new(CertificateParams::default(), key)).expect("signed");
        let dates = current(list.der()).expect("it says");
        assert_eq!((dates.from_s, dates.to_s), (1_704_067_200, 2_840_140_800));
        assert_eq!(current(&CertificateRevocationListDer::from(&list.der()[..40])), None);
        let pem = list.pem().expect("a text");
        assert_eq!(lists(Path::new("a"), pem.as_bytes()).expect("one").len(), 1);
        let none = lists(Path::new("a"), signed.pem().as_bytes()).expect_err("no list");
        assert!(none.0.contains("X509 CRL"), "{none}");
    }
}
