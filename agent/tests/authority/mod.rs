//! A CA of a test, and what it signed.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// Writes into `dir`: `ca.crt`, `server.crt` and `client.crt` from it with their keys, both for 127.0.0.1 and
/// `<name>.cjtimis.ro`, and `other.crt`, a CA that signed nothing.
pub(crate) fn write(dir: &Path) {
    let write = |name: &str, text: String| fs::write(dir.join(name), text).expect("write");
    for authority in ["ca", "other"] {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("certificate");
        write(&format!("{authority}.crt"), certificate.pem());
        if authority == "other" {
            continue;
        }
        let issuer = Issuer::new(params, key);
        for (name, usage) in
            [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
        {
            let key = KeyPair::generate().expect("key");
            let names = vec!["127.0.0.1".to_owned(), format!("{name}.cjtimis.ro")];
            let mut params = CertificateParams::new(names).expect("parameters");
            params.extended_key_usages = vec![usage];
            write(&format!("{name}.crt"), params.signed_by(&key, &issuer).expect("certificate").pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
    }
}
