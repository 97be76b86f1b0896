//! The header `Host` (RFC 9112, section 3.2): a server that took a request for that of one host, and a proxy in
//! front of it for that of another, would let a client past the proxy's rules.

use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};

use super::error::ApiError;

/// The refusal of a request with a `Host` that is repeated or no host, and of one of HTTP/1.1 without any.
pub(super) fn refuse(request: &Request) -> Option<ApiError> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let problem = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => "must be given only once",
        (Some(host), None) if !is_host(host) => "must be a host, and perhaps a port",
        (None, None) if request.version() == Version::HTTP_11 => "is missing",
        (Some(_) | None, None) => return None,
    };
    Some(ApiError::malformed("Host", problem))
}

/// `uri-host [ ":" port ]` (RFC 3986, sections 3.2.2 and 3.2.3). The host may be empty.
fn is_host(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let (is_host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((literal, port)) = rest.split_once(']') else { return false };
        (is_ip_literal(literal), port)
    } else {
        let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        (is_name(name), port)
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    is_host
        && (port.is_empty() || port.starts_with(':'))
        && digits.bytes().all(|b| b.is_ascii_digit())
}

/// An IPv6 address, or an address of a later version (`v1.x`).
fn is_ip_literal(text: &str) -> bool {
    text.parse::<std::net::Ipv6Addr>().is_ok()
        || text.strip_prefix(['v', 'V']).and_then(|rest| rest.split_once('.')).is_some_and(
            |(version, address)| {
                !version.is_empty()
                    && version.bytes().all(|b| b.is_ascii_hexdigit())
                    && !address.is_empty()
                    && address.bytes().all(|b| b == b':' || is_plain(b))
            },
        )
}

/// Plain characters and escapes such as `%20`.
fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let is_right = match byte {
            b'%' => (0..2).all(|_| bytes.next().is_some_and(|b| b.is_ascii_hexdigit())),
            byte => is_plain(byte),
        };
        if !is_right {
            return false;
        }
    }
    true
}

/// The unreserved characters and the sub-delimiters of URIs.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}
