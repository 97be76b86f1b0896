//! The address of a client behind proxies: `X-Forwarded-For`, or `Forwarded` (RFC 7239). Each proxy appends the
//! address that it has seen, so what stands to the left of a trusted proxy's may be forged, and need not even be
//! text: both headers are read by bytes, from the right, and no further than the proxies are trusted.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use axum::http::{HeaderMap, header};
use ipnet::IpNet;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The client's address: the first one from the right that is not a trusted proxy's. It is the last trusted
/// proxy's if that one does not say whom it has seen.
///
/// `Forwarded` counts only without `X-Forwarded-For`: a proxy that writes the latter, as most do, passes on a
/// `Forwarded` that the client has written.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip));
    let mut client = peer.to_canonical();
    if !is_trusted(client) {
        return client;
    }
    let is_x = headers.contains_key(X_FORWARDED_FOR);
    let seen = |element: &[u8]| if is_x { address(&unquoted(element)?) } else { seen_by(element) };
    let lines =
        if is_x { headers.get_all(X_FORWARDED_FOR) } else { headers.get_all(header::FORWARDED) };
    let mut elements = lines.iter().rev().flat_map(|line| from_the_right(line.as_bytes(), b','));
    while is_trusted(client) {
        match elements.next().map(<[u8]>::trim_ascii) {
            Some([]) => {}
            Some(element) => match seen(element) {
                Some(ip) => client = ip.to_canonical(),
                None => break,
            },
            None => break,
        }
    }
    client
}

/// The one parameter `for` of an element of `Forwarded`.
fn seen_by(element: &[u8]) -> Option<IpAddr> {
    let mut nodes = from_the_right(element, b';').filter_map(|parameter| {
        let at = parameter.iter().position(|byte| *byte == b'=')?;
        let (name, value) = parameter.split_at(at);
        name.trim_ascii().eq_ignore_ascii_case(b"for").then_some(&value[1..])
    });
    let (node, None) = (nodes.next()?, nodes.next()) else { return None };
    address(&unquoted(node.trim_ascii())?)
}

/// The pieces between the separators that stand outside of quotes, the last one first.
fn from_the_right(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let at = last_outside_of_quotes(text, separator);
        rest = at.map(|at| &text[..at]);
        Some(&text[at.map_or(0, |at| at + 1)..])
    })
}

fn last_outside_of_quotes(text: &[u8], separator: u8) -> Option<usize> {
    let mut is_quoted = false;
    for (at, byte) in text.iter().enumerate().rev() {
        if *byte == b'"' {
            let escapes = text[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
            is_quoted ^= escapes % 2 == 0;
        } else if *byte == separator && !is_quoted {
            return Some(at);
        }
    }
    None
}

/// The text of a token or of a quoted string (RFC 9110, section 5.6.4); `None` if it is neither.
fn unquoted(value: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(value).ok()?;
    let Some(quoted) = text.strip_prefix('"') else {
        return (!text.contains('"')).then_some(Cow::Borrowed(text));
    };
    let mut plain = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return chars.as_str().is_empty().then_some(Cow::Owned(plain)),
            '\\' => plain.push(chars.next()?),
            c => plain.push(c),
        }
    }
}

/// Parses an address as proxies write it: some add the port (RFC 7239, section 6), some brackets around an IPv6
/// address, some its zone (RFC 4007, section 11).
fn address(text: &str) -> Option<IpAddr> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            return ip_v6(host)
                .filter(|_| after.is_empty() || after.strip_prefix(':').is_some_and(is_port));
        }
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, port),
            Some(_) => return ip_v6(text),
            None => return text.parse().ok(),
        },
    };
    host.parse().ok().filter(|_| is_port(port))
}

fn ip_v6(text: &str) -> Option<IpAddr> {
    let (address, zone) = text.split_once('%').unwrap_or((text, "0"));
    address.parse::<Ipv6Addr>().ok().filter(|_| !zone.is_empty()).map(IpAddr::from)
}

/// A number, or the name by which a proxy hides one.
fn is_port(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.bytes().all(is_plain),
        None => text.parse::<u16>().is_ok() && text.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn client_of(peer: &str, lines: &[(&str, &[u8])], trusted: &[&str]) -> IpAddr {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a token");
            headers.append(name, HeaderValue::from_bytes(value).expect("a value"));
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().expect("a net")).collect();
        client(peer.parse().expect("an address"), &headers, &trusted)
    }

    /// Bytes that a header may have, with those in plenty that mean something in these.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            prop::sample::select(b"\",;=\\:[]%. forFOR_unkw0129a".to_vec()),
            (0x20..=0x7e_u8),
            (0x80..=0xff_u8),
        ];
        prop::collection::vec(byte, 0..48)
    }

    fn node(ip: IpAddr, form: u8) -> String {
        match (ip, form % 4) {
            (IpAddr::V4(ip), 0) => format!("{ip}"),
            (IpAddr::V4(ip), 1) => format!("{ip}:4711"),
            (IpAddr::V4(ip), 2) => format!("\"{ip}\""),
            (IpAddr::V4(ip), _) => format!("\"{ip}:4711\""),
            (IpAddr::V6(ip), 0) => format!("{ip}"),
            (IpAddr::V6(ip), 1) => format!("[{ip}]"),
            (IpAddr::V6(ip), 2) => format!("\"[{ip}]\""),
            (IpAddr::V6(ip), _) => format!("\"[{ip}]:4711\""),
        }
    }

    /// More with `script/test --long`. Set here, because `PROPTEST_CASES` also counts for tests with servers.
    fn cases() -> ProptestConfig {
        let is_long = std::env::var_os("CUSTOMERS_TEST_LONG").is_some();
        let cases = if is_long { 100_000 } else { 2000 };
        ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(cases())]

        /// Whatever the client writes, in the same line or in earlier ones: the address that the trusted proxy
        /// has seen counts.
        #[test]
        fn what_a_client_writes_never_hides_its_address(
            (written, earlier) in (bytes(), prop::collection::vec(bytes(), 0..3)),
            (is_v6, bits) in any::<(bool, u128)>(),
            (form, hops, is_joined, host) in (0..4_u8, 0..3_u8, any::<bool>(), bytes()),
        ) {
            let trusted = ["127.0.0.1/32", "10.9.9.9/32"];
            #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
            let v4 = IpAddr::from(Ipv4Addr::from(bits as u32));
            let ip = if is_v6 { IpAddr::from(Ipv6Addr::from(bits)).to_canonical() } else { v4 };
            prop_assume!(!trusted.contains(&format!("{ip}/32").as_str()));
            let mut quoted = vec![];
            for byte in &host {
                if b"\"\\".contains(byte) {
                    quoted.push(b'\\');
                }
                quoted.push(*byte);
            }
            for name in [X_FORWARDED_FOR, "forwarded"] {
                let write = |node: &str| match name {
                    X_FORWARDED_FOR => node.to_owned().into_bytes(),
                    _ => [b"for=", node.as_bytes(), b";host=\"", &quoted, b"\""].concat(),
                };
                let mut proxies = write(&node(ip, form));
                for _ in 0..hops {
                    proxies = [&proxies[..], b", ", &write("10.9.9.9")].concat();
                }
                let mut lines: Vec<Vec<u8>> = earlier.clone();
                if is_joined {
                    lines.push([&written[..], b", ", &proxies].concat());
                } else {
                    lines.extend([written.clone(), proxies]);
                }
                let lines: Vec<(&str, &[u8])> = lines.iter().map(|line| (name, &line[..])).collect();
                prop_assert_eq!(client_of("127.0.0.1", &lines, &trusted), ip, "{:?}", lines);
                prop_assert_eq!(client_of("127.0.0.2", &lines, &trusted).to_string(), "127.0.0.2");
            }
        }

        /// Any bytes at all: an answer, and only one of the addresses that stand there.
        #[test]
        fn any_bytes_have_an_answer(lines in prop::collection::vec((any::<bool>(), bytes()), 0..4)) {
            let lines: Vec<(&str, &[u8])> = lines
                .iter()
                .map(|(is_x, line)| (if *is_x { X_FORWARDED_FOR } else { "forwarded" }, &line[..]))
                .collect();
            prop_assert_eq!(client_of("203.0.113.9", &lines, &["127.0.0.1/32"]).to_string(), "203.0.113.9");
            client_of("127.0.0.1", &lines, &["0.0.0.0/0", "::/0"]);
        }
    }
}
