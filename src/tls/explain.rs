//! What a failed handshake means, for the person who reads the log.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// A sentence with what to do, for an error of a connection that speaks TLS.
pub fn explain(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    inner.map_or_else(|| error.to_string(), of_tls)
}

fn of_tls(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(problem) => of_certificate(problem),
        Error::NoCertificatesPresented => {
            "it showed no certificate, and one is needed here".to_owned()
        }
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::InvalidMessage(_) => "what it says is not TLS".to_owned(),
        other => other.to_string(),
    }
}

fn of_certificate(problem: &CertificateError) -> String {
    match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("its certificate is over: give it a new one ({problem})")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => format!(
            "its certificate is not valid yet: compare the clocks of both machines ({problem})"
        ),
        CertificateError::Revoked => {
            "its certificate was revoked: if it should be let in, give it a new one".to_owned()
        }
        CertificateError::UnknownRevocationStatus => "its authority has no list among the revoked \
                                                      certificates that are configured here"
            .to_owned(),
        // An authority of the same name did not sign it.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is of another authority than the one \
                                            configured here"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is for another name ({problem})")
        }
        other => format!("its certificate cannot be used ({other})"),
    }
}

fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateExpired => "it says that our certificate is not valid now",
        AlertDescription::CertificateRevoked => "it says that our certificate was revoked",
        AlertDescription::UnknownCA => "it says that our certificate is of another authority",
        AlertDescription::CertificateRequired => "it asks for a certificate, and we have none",
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it does not accept our certificate; its log says why"
        }
        other => return format!("it ended the handshake ({other:?})"),
    }
    .to_owned()
}
