//! TLS between a device and a relay, pinned to the relay's UID.
//!
//! Both sides use raw public keys (RFC 7250): the server shows the ed25519 key that *is* its UID,
//! and the client compares it with the UID in the host name it wanted. Nothing is skipped and no
//! certificate authority is asked.

use std::sync::Arc;

#[cfg(feature = "bootstrap")]
use ioex_base::NodeKey;
use ioex_base::Uid;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime, alg_id},
};

use crate::names;

fn spki_of(uid: &Uid) -> SubjectPublicKeyInfoDer<'static> {
    rustls::sign::public_key_to_spki(&alg_id::ED25519, uid.as_bytes())
}

/// Accepts a relay only when its key is the UID in its name.
#[derive(Debug)]
pub(crate) struct RelayVerifier {
    algorithms: WebPkiSupportedAlgorithms,
}

impl RelayVerifier {
    pub(crate) fn new(provider: &CryptoProvider) -> Self {
        Self { algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for RelayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ServerName::DnsName(name) = server_name else {
            return Err(Error::UnsupportedNameType);
        };
        let (uid, _) = names::parse_host(name.as_ref())
            .ok_or(Error::InvalidCertificate(CertificateError::NotValidForName))?;
        if !intermediates.is_empty() || end_entity.as_ref() != spki_of(&uid).as_ref() {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(cert.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The client side: for the relays only, node-to-node TLS is iroh's own.
pub(crate) fn client_config() -> iroh::tls::CaTlsConfig {
    iroh::tls::CaTlsConfig::custom_server_cert_verifier(Arc::new(|provider: Arc<CryptoProvider>| {
        Ok(Arc::new(RelayVerifier::new(&provider)) as Arc<dyn ServerCertVerifier>)
    }))
}

/// Shows one raw public key, whatever is asked.
#[cfg(feature = "bootstrap")]
#[derive(Debug)]
struct OneKey(Arc<rustls::sign::CertifiedKey>);

#[cfg(feature = "bootstrap")]
impl rustls::server::ResolvesServerCert for OneKey {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }
}

/// The server side of a bootstrap's relay.
#[cfg(feature = "bootstrap")]
pub(crate) fn server_config(key: &NodeKey) -> Result<rustls::ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let signer = provider.key_provider.load_private_key(pkcs8_of(key).into())?;
    let cert = CertificateDer::from(spki_of(&key.uid()).to_vec());
    let certified = Arc::new(rustls::sign::CertifiedKey::new(vec![cert], signer));
    Ok(rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(OneKey(certified))))
}

/// PKCS#8 version 2 (RFC 5958) with the public key, as RFC 8410 section 10.3 lays it out.
#[cfg(feature = "bootstrap")]
fn pkcs8_of(key: &NodeKey) -> rustls::pki_types::PrivatePkcs8KeyDer<'static> {
    const BEFORE_SEED: [u8; 16] =
        [0x30, 0x51, 0x02, 0x01, 0x01, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    const BEFORE_PUBLIC: [u8; 3] = [0x81, 0x21, 0x00];
    let mut der = Vec::with_capacity(83);
    der.extend_from_slice(&BEFORE_SEED);
    der.extend_from_slice(&*key.seed());
    der.extend_from_slice(&BEFORE_PUBLIC);
    der.extend_from_slice(key.uid().as_bytes());
    der.into()
}

#[cfg(all(test, feature = "bootstrap"))]
mod tests {
    use super::*;

    fn verify(name: &str, cert: &[u8]) -> bool {
        let verifier = RelayVerifier::new(&rustls::crypto::ring::default_provider());
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier
            .verify_server_cert(&CertificateDer::from(cert.to_vec()), &[], &name, &[], UnixTime::now())
            .is_ok()
    }

    #[test]
    fn only_the_named_key_is_accepted() {
        let (right, wrong) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
        let name = format!("{}.127-0-0-1.relay.internal", right.uid());
        assert!(verify(&name, &spki_of(&right.uid())));
        assert!(!verify(&name, &spki_of(&wrong.uid())));
        assert!(!verify("example.org", &spki_of(&right.uid())));
    }

    #[test]
    fn the_server_can_sign_with_the_node_key() {
        assert!(server_config(&NodeKey::from_seed([1; 32])).is_ok());
    }
}
