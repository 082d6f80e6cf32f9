//! TLS to a server, which must prove as much as is asked for.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme, StreamOwned,
};

/// How much the server must prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// TLS where the server has it, without looking at whom it belongs to.
    #[default]
    Prefer,
    /// Always TLS, without looking at whom it belongs to.
    Require,
    /// Its certificate must lead to a trusted one.
    VerifyCa,
    /// And must be made out for the host.
    VerifyFull,
}

/// A stream inside TLS.
pub type TlsStream<S> = StreamOwned<ClientConnection, S>;

/// Speaks TLS over a stream to `host`, trusting the certificates of a file instead of the system's
/// where one is given; the handshake is done with the first bytes.
///
/// # Errors
/// What is wrong, as text: certificates to trust that cannot be read, a name that is none.
pub fn wrap<S: Read + Write>(
    (mode, root_certificates): (TlsMode, Option<&Path>),
    host: &str,
    stream: S,
) -> Result<TlsStream<S>, String> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier(mode, root_certificates, provider)?)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let connection = ClientConnection::new(Arc::new(config), name);
    Ok(StreamOwned::new(connection.map_err(|error| error.to_string())?, stream))
}

fn verifier(
    mode: TlsMode,
    root_certificates: Option<&Path>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    // As libpq: with a file of certificates at hand, `require` means `verify-ca`.
    let mode = match mode {
        TlsMode::Require if root_certificates.is_some() => TlsMode::VerifyCa,
        mode => mode,
    };
    if !matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyFull) {
        return Ok(Arc::new(Lenient { provider, chain: None }));
    }
    let roots = Arc::new(roots(root_certificates)?);
    let strict = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
    let strict = strict.map_err(|error| error.to_string())?;
    if mode == TlsMode::VerifyFull {
        return Ok(strict);
    }
    Ok(Arc::new(Lenient { provider, chain: Some(strict) }))
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let Some(file) = file.filter(|file| *file != Path::new("system")) else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    let shown = file.display();
    let certificates = CertificateDer::pem_file_iter(file).map_err(|e| format!("{shown}: {e}"))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| format!("{shown}: {error}"))?;
        store.add(certificate).map_err(|error| format!("{shown}: {error}"))?;
    }
    if store.is_empty() { Err(format!("{shown} holds no certificate")) } else { Ok(store) }
}

/// Looks at the chain where one is wanted, and never at the name.
#[derive(Debug)]
struct Lenient {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        let verified =
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The chain is looked at before the name.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
