pub(crate) fn request() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    (key.serialize_pem(), request.pem().unwrap())
}
