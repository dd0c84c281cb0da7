//! Whom a certificate names: enough of DER to walk to the subject's common name (RFC 5280, 4.1).

/// Object identifier 2.5.4.3, the common name.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// Tag of the optional version field.
const VERSION: u8 = 0xa0;

/// One element in DER: its tag, its content, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        let length = digits
            .iter()
            .fold(0, |length, digit| length << 8 | usize::from(*digit));
        (length, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// The last common name of the subject of a certificate (DER): version, serial number, signature, issuer and validity stand before it.
#[must_use]
pub fn common_name(certificate: &[u8]) -> Option<&[u8]> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    let (tag, _, after_version) = element(rest)?;
    if tag == VERSION {
        rest = after_version;
    }
    for _ in ["serial number", "signature", "issuer", "validity"] {
        (_, _, rest) = element(rest)?;
    }
    let (_, mut names, _) = element(rest)?;
    let mut found = None;
    while let Some((_, set, after)) = element(names) {
        names = after;
        let (_, attribute, _) = element(set)?;
        let (_, kind, value) = element(attribute)?;
        if kind == COMMON_NAME {
            found = element(value).map(|(_, text, _)| text);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    #[test]
    fn a_certificate_names_its_owner() {
        let client = CertificateDer::from_pem_file(ibex_testkit::tls::file("client.pem")).unwrap();
        let name = common_name(&client).map(String::from_utf8_lossy);
        assert_eq!(name.as_deref(), Some("client"));
        // Cut or changed anywhere it is read or refused, never a panic.
        for cut in 0..client.len() {
            let _named = common_name(&client[..cut]);
            let mut changed = client.to_vec();
            changed[cut] ^= 0xff;
            let _named = common_name(&changed);
        }
    }
}
