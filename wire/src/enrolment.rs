//! How an agent becomes known: the one-time token and the JSON bodies of `POST /v1/enrol`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::AgentId;

/// What `veghe-collector token create` prints: good for one enrolment of one agent, until it expires.
///
/// Text form: `veghe1.<secret>.<fingerprint>.<agent>`, secret and fingerprint in hexadecimal.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Whom it admits.
    pub agent: AgentId,
    /// Known only to the two sides; the collector keeps its SHA-256.
    pub secret: [u8; 16],
    /// SHA-256 of the collector's CA certificate in DER: the agent trusts no other.
    pub ca_fingerprint: [u8; 32],
}

/// Why a string is no token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a Veghe token; copy the whole last line that `veghe-collector token create` printed")]
pub struct TokenError;

impl FromStr for Token {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().splitn(4, '.');
        let mut part = || parts.next().ok_or(TokenError);
        if part()? != "veghe1" {
            return Err(TokenError);
        }
        let secret = from_hex(part()?).ok_or(TokenError)?;
        let ca_fingerprint = from_hex(part()?).ok_or(TokenError)?;
        let agent = part()?.parse().or(Err(TokenError))?;
        Ok(Self { agent, secret, ca_fingerprint })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "veghe1.{}.{}.{}", to_hex(&self.secret), to_hex(&self.ca_fingerprint), self.agent)
    }
}

/// Shows whom it admits, never the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// What an agent asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentRequest {
    /// The token as printed.
    pub token: String,
    /// A PKCS#10 request in PEM. Its subject is ignored: the token says who the agent is.
    pub certificate_request: String,
}

/// What the collector answers. Newer collectors may add fields.
#[derive(Debug, Serialize, Deserialize)]
pub struct EnrolmentResponse {
    /// Who the agent now is.
    pub agent: String,
    /// Its certificate in PEM.
    pub certificate: String,
    /// The CA's certificate in PEM; its SHA-256 is the token's fingerprint.
    pub ca_certificate: String,
    /// The broker's address, for example `mqtts://veghe.cjtimis.ro:8883`; without it the host that the agent used for
    /// enrolment serves, at `mqtt_port`.
    pub mqtt_url: Option<String>,
    /// The broker's port.
    pub mqtt_port: u16,
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(nibble(pair[0])? * 16 + nibble(pair[1])?).ok()?;
    }
    Some(bytes)
}

/// `bytes` in lower-case hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("invariant: a string takes every write");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_hides_its_secret() {
        let token = Token { agent: "nas.cjtimis.ro".parse().expect("id"), secret: [0xab; 16], ca_fingerprint: [1; 32] };
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("abab"));
        assert_eq!("veghe1.ab.cd.x".parse::<Token>(), Err(TokenError));
        assert_eq!("".parse::<Token>(), Err(TokenError));
    }
}
