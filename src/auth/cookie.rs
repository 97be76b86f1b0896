//! The session cookie: its names, the form of its value, and its place among the cookies of a request.
//!
//! Cookies do not know ports (RFC 6265, section 8.5): a browser sends the cookies of all installations on a
//! host to each of them. So the name has a tag of the installation, and the value a MAC of it: the service takes a
//! cookie that lacks either for a neighbour's. The cookie is also set under the name that all installations share, which
//! programs and earlier versions know, unless a neighbour's cookie has it.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::principal::Cookie;
use crate::clock;
use crate::config::path_of;

/// The name that all installations share, on plain http.
const NAME: &str = "customers_session";

/// The same on https: browsers accept it only from this very host, with `Secure` and the path `/` (RFC
/// 6265bis, section 4.1.3.2).
const HOST_NAME: &str = "__Host-session";

/// The same on https below a path: browsers accept it only with `Secure` (section 4.1.3.1). Earlier versions set
/// [`HOST_NAME`] there, too; their tokens live for 24 h at most.
const SECURE_NAME: &str = "__Secure-session";

/// The parts of a value, in bytes: random ones, and the start of their MAC (RFC 2104, section 5).
const RANDOM: usize = 32;
const MAC: usize = 8;

/// The session cookies of one installation.
pub struct SessionCookies {
    name: String,
    shared_name: &'static str,
    is_secure: bool,
    /// The path of the public URL, or `/`.
    path: String,
    key: hmac::Key,
}

/// The session cookie of a request, and what holds the shared name in the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent<'a> {
    pub cookie: Cookie<'a>,
    pub shared: Shared,
    /// Whether the cookie is one that an earlier version set for the whole host, although the installation is
    /// below a path.
    pub has_former: bool,
}

/// Whose cookie has the shared name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    Free,
    Ours,
    /// A neighbour's, or one that an earlier version made.
    Foreign,
}

impl SessionCookies {
    /// `secret` is that of the installation. An installation is known by it together with its public URL
    /// and the prefix of its keys in Redis: a copy of its database is another one.
    #[must_use]
    pub fn new(secret: &str, public_url: &str, redis_prefix: &str) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let installation = format!("session cookies of\n{public_url}\n{redis_prefix}");
        let derived = hmac::sign(&secret, installation.as_bytes());
        let key = hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref());
        let is_secure = public_url.starts_with("https://");
        let public_path = path_of(public_url);
        let shared_name = match (is_secure, public_path) {
            (false, _) => NAME,
            (true, "") => HOST_NAME,
            (true, _) => SECURE_NAME,
        };
        let path = if public_path.is_empty() { "/" } else { public_path }.to_owned();
        let tag = hmac::sign(&key, b"name");
        let tag = u32::from_be_bytes(tag.as_ref()[..4].try_into().expect("four bytes"));
        Self { name: format!("{shared_name}_{tag:08x}"), shared_name, is_secure, path, key }
    }

    /// The name that only this installation uses.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name that installations of one host share.
    #[must_use]
    pub fn shared_name(&self) -> &'static str {
        self.shared_name
    }

    /// A new value: 256 random bits and their MAC, in base64url.
    #[must_use]
    pub fn value(&self) -> String {
        let random = clock::random_bytes::<RANDOM>();
        let mac = hmac::sign(&self.key, &random);
        BASE64_URL_SAFE_NO_PAD.encode([&random[..], &mac.as_ref()[..MAC]].concat())
    }

    /// Whether this installation has made the value. Says nothing of the session that it belongs to.
    #[must_use]
    pub fn has_made(&self, value: &[u8]) -> bool {
        let Ok(bytes) = BASE64_URL_SAFE_NO_PAD.decode(value) else { return false };
        let Some((random, mac)) = bytes.split_at_checked(RANDOM) else { return false };
        let expected = hmac::sign(&self.key, random);
        verify_slices_are_equal(&expected.as_ref()[..MAC], mac).is_ok()
    }

    /// Finds the session cookie in the `Cookie` headers of a request. Every other cookie is ignored, and so is
    /// one by our name that we have not made. Two of ours by one name are [`Cookie::Several`].
    pub fn read<'a>(&self, headers: impl IntoIterator<Item = &'a [u8]>) -> Sent<'a> {
        let (mut own, mut shared, mut earlier) = (Cookie::Absent, Cookie::Absent, None);
        let mut former = None;
        // As bytes: a neighbour's cookie need not be ASCII.
        for pair in headers.into_iter().flat_map(|line| line.split(|byte| *byte == b';')) {
            let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let (name, value) = pair.split_at(at);
            let (name, value) =
                (name.trim_ascii(), value.get(1..).unwrap_or_default().trim_ascii());
            let place = if name == self.name.as_bytes() {
                &mut own
            } else if name == self.shared_name.as_bytes() {
                &mut shared
            } else {
                if self.shared_name == SECURE_NAME && name == HOST_NAME.as_bytes() {
                    former = former.or(std::str::from_utf8(value).ok().filter(is_earlier));
                }
                continue;
            };
            match std::str::from_utf8(value) {
                Ok(value) if self.has_made(value.as_bytes()) => {
                    *place = match place {
                        Cookie::Absent => Cookie::Own(value),
                        Cookie::Own(_) | Cookie::Earlier(_) | Cookie::Several => Cookie::Several,
                    };
                }
                // What a client without a jar keeps of a log-out.
                Ok("") => {}
                // Clients send the cookie of the longest path first (RFC 6265, section 5.4); earlier versions set
                // theirs for `/`, below a path too.
                Ok(value) if name == self.shared_name.as_bytes() => earlier = Some(value),
                // What is not UTF-8 is of no version.
                Ok(_) | Err(_) => {}
            }
        }
        let holder = match (shared, earlier) {
            (_, Some(_)) => Shared::Foreign,
            (Cookie::Absent, None) => Shared::Free,
            (_, None) => Shared::Ours,
        };
        let cookie = match (own, shared, former.or(earlier)) {
            (Cookie::Absent, Cookie::Absent, Some(value)) => Cookie::Earlier(value),
            (Cookie::Absent, shared, _) => shared,
            (own, _, _) => own,
        };
        let has_former = former.is_some_and(|former| cookie == Cookie::Earlier(former));
        Sent { cookie, shared: holder, has_former }
    }

    /// The `Set-Cookie` headers of a log-in, for a value and its lifetime in seconds. A neighbour's cookie is not
    /// replaced.
    #[must_use]
    pub fn set(&self, value: &str, seconds: u64, sent: Sent<'_>) -> Vec<String> {
        self.lines(value, seconds, sent)
    }

    /// The `Set-Cookie` headers of a log-out, which remove the session cookie and no other. A client that did
    /// not send the shared name has nothing of a neighbour by it.
    #[must_use]
    pub fn expire(&self, sent: Sent<'_>) -> Vec<String> {
        let mut lines = self.lines("", 0, sent);
        if sent.has_former {
            lines.push(self.line(HOST_NAME, "", "/", 0));
        }
        lines
    }

    /// The shared name comes first, because programs that know it read the first header.
    fn lines(&self, value: &str, seconds: u64, sent: Sent<'_>) -> Vec<String> {
        let is_shared_too = sent.shared != Shared::Foreign;
        let names = [is_shared_too.then_some(self.shared_name), Some(self.name.as_str())];
        let names = names.into_iter().flatten();
        names.map(|name| self.line(name, value, &self.path, seconds)).collect()
    }

    /// RFC 6265, section 4.1.
    fn line(&self, name: &str, value: &str, path: &str, seconds: u64) -> String {
        let secure = if self.is_secure { "; Secure" } else { "" };
        format!("{name}={value}{secure}; HttpOnly; SameSite=Strict; Path={path}; Max-Age={seconds}")
    }
}

/// Whether a value has the form of earlier versions: random bytes without a MAC.
fn is_earlier(value: &&str) -> bool {
    BASE64_URL_SAFE_NO_PAD.decode(value).is_ok_and(|bytes| bytes.len() == RANDOM)
}
