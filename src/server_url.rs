//! What the URLs of PostgreSQL and Redis have in common: credentials, hosts, percent-encoding, parameters.
//!
//! No error repeats a part of the URL, except the plain name of a parameter: any other part may be a piece of
//! a password whose special characters are not percent-encoded.

use std::net::Ipv6Addr;

use percent_encoding::percent_decode_str;

/// The advice for characters that have a meaning in a URL.
pub const ENCODE: &str = "percent-encode special characters in user name and password (/ as %2F, ? as %3F, \
                          # as %23, % as %25, & as %26, @ as %40, : as %3A, a comma as %2C)";

/// The parameters that hold a password. A name after one of them may be the rest of the password.
const SECRETS: [&str; 3] = ["pass", "password", "sslpassword"];

/// A URL after its scheme, not decoded yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UrlParts<'a> {
    pub user: &'a str,
    pub password: Option<&'a str>,
    pub hosts: &'a str,
    /// Begins with a slash if it is not empty.
    pub path: &'a str,
    pub query: &'a str,
}

/// One parameter of a query, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub value: String,
    follows_secret: bool,
}

/// A host (an IPv6 address without its brackets; may be empty), and its port if there is one.
pub type HostAndPort = (String, Option<u16>);

impl<'a> UrlParts<'a> {
    /// Splits `user:password@hosts/path?query`. An @ after the hosts is refused: then the password has a
    /// / or a ? that is not encoded.
    pub fn split(text: &'a str) -> Result<Self, String> {
        let parts = Self::split_socket(text)?;
        if parts.path.contains('@') {
            return Err(format!("has an @ after a /: {ENCODE}"));
        }
        Ok(parts)
    }

    /// As [`UrlParts::split`], for a path that is the path of a socket, which may contain an @.
    pub fn split_socket(text: &'a str) -> Result<Self, String> {
        let (before, query) = text.split_once('?').unwrap_or((text, ""));
        if query.contains('@') {
            return Err(format!("has an @ after a ?: {ENCODE}"));
        }
        let (authority, path) = before.find('/').map_or((before, ""), |at| before.split_at(at));
        let (credentials, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        Ok(Self { user, password, hosts, path, query })
    }

    /// The parameters of the query, in their order.
    pub fn parameters(&self) -> Result<Vec<Parameter>, String> {
        let mut follows_secret = false;
        let pairs = self.query.split('&').filter(|pair| !pair.is_empty());
        let parameter = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let parameter =
                Parameter { name: decode(name)?, value: decode(value)?, follows_secret };
            follows_secret |= SECRETS.contains(&parameter.name.as_str());
            Ok(parameter)
        };
        pairs.map(parameter).collect()
    }
}

impl Parameter {
    /// The name, if it looks like one and cannot be the rest of a password with a & in it.
    #[must_use]
    pub fn shown(&self) -> Option<&str> {
        let is_plain = |c: char| c.is_ascii_lowercase() || matches!(c, '_' | '-');
        let is_name = self.name.len() <= 32 && self.name.chars().all(is_plain);
        (is_name && !self.follows_secret).then_some(self.name.as_str())
    }
}

/// Decodes `%XX` (RFC 3986, section 2.1). A % without two digits, a NUL and what is not UTF-8 are refused.
pub fn decode(text: &str) -> Result<String, String> {
    let error = || format!("has a % that begins no encoded character of UTF-8: {ENCODE}");
    let is_encoded = |after: &str| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit) && digits != b"00")
    };
    if !text.split('%').skip(1).all(is_encoded) || text.contains('\0') {
        return Err(error());
    }
    percent_decode_str(text).decode_utf8().map(String::from).map_err(|_| error())
}

/// The hosts of a list with commas: `host`, `host:port`, `[IPv6]:port`.
pub fn hosts(text: &str) -> Result<Vec<HostAndPort>, String> {
    text.split(',').map(host_and_port).collect()
}

fn host_and_port(text: &str) -> Result<HostAndPort, String> {
    let Some(rest) = text.strip_prefix('[') else {
        let (host, number) = text.split_once(':').unwrap_or((text, ""));
        return Ok((decode(host)?, port(number)?));
    };
    let (host, rest) = rest.split_once(']').ok_or("has a [ without a ]")?;
    let host = decode(host)?;
    // A link-local address has a zone: fe80::1%eth0.
    if host.split('%').next().is_none_or(|address| address.parse::<Ipv6Addr>().is_err()) {
        return Err("must have an IPv6 address between [ and ]".to_owned());
    }
    let number = match rest.strip_prefix(':') {
        Some(number) => port(number)?,
        None if rest.is_empty() => None,
        None => return Err(no_port()),
    };
    Ok((host, number))
}

/// The number of a port; `None` for an empty text, which means the default (RFC 3986, section 3.2.3).
pub fn port(text: &str) -> Result<Option<u16>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| is_number && *port > 0);
    port.map(Some).ok_or_else(no_port)
}

fn no_port() -> String {
    format!("must have a port from 1 to 65535: {ENCODE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_at_its_own_separators() {
        let url = UrlParts::split("u:a:b@c@h:1,[::1]/d/e?x=1&y").unwrap();
        assert_eq!((url.user, url.password, url.hosts), ("u", Some("a:b@c"), "h:1,[::1]"));
        assert_eq!((url.path, url.query), ("/d/e", "x=1&y"));
        let url = UrlParts::split("h").unwrap();
        assert_eq!((url.user, url.password, url.hosts, url.path), ("", None, "h", ""));
        let socket = UrlParts::split_socket("u@/run/a@b").unwrap();
        assert_eq!((socket.user, socket.path), ("u", "/run/a@b"));
        for text in ["u:a?b@h", "u:1/b@h", "h/d?user=u@v"] {
            assert!(UrlParts::split(text).unwrap_err().contains("has an @ after a"), "{text}");
        }
    }

    #[test]
    fn a_percent_sign_begins_an_encoded_character() {
        assert_eq!(decode("a%20b%C3%A9+%25").unwrap(), "a bé+%");
        for text in ["%", "a%2", "%zz", "%é", "%%41", "%+1", "%FF", "%00", "\0"] {
            assert!(decode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_have_ports_and_brackets() {
        let host = |name: &str, port| (name.to_owned(), port);
        let expected =
            [host("a", Some(1)), host("::1", None), host("::2", Some(5)), host("", None)];
        assert_eq!(hosts("a:1,[::1],[::2]:5,:").unwrap(), expected);
        assert_eq!(hosts("[fe80::1%25eth0]").unwrap(), [host("fe80::1%eth0", None)]);
        assert_eq!(hosts("%2Frun%2Fx").unwrap(), [host("/run/x", None)]);
        for text in ["a:b", "a:0", "a:65536", "a:+1", "[::1", "[a]", "[::1]5", "a,b:c", "::1"] {
            assert!(hosts(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_parameters_name_is_shown_unless_it_may_be_a_piece_of_a_password() {
        let url = UrlParts::split("h?ssl_mode=a%26b&&Word&password=x&word&user").unwrap();
        let parameters = url.parameters().unwrap();
        let shown: Vec<_> = parameters.iter().map(Parameter::shown).collect();
        assert_eq!(shown, [Some("ssl_mode"), None, Some("password"), None, None]);
        assert_eq!(parameters[0].value, "a&b");
        assert!(UrlParts::split("h?x=%zz").unwrap().parameters().is_err());
    }
}
