//! The parsers of the variables' values. No error repeats a secret.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

use super::choices::{CookieBinding, LogFormat};
use super::redis_url::RedisUrl;
use crate::postgres::address::Address;

/// The most live sessions of an account: what one account may hold in Redis is bounded.
const SESSIONS_MAX: u32 = 1000;

/// The longest lifetime of a token, and so the time for which a log-out must be kept.
const TOKEN_TTL_MAX: Duration = Duration::from_hours(24);

/// The longest drain delay: an orchestrator waits for it before it kills the process.
const DRAIN_DELAY_MAX: Duration = Duration::from_mins(5);

pub(super) fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "must be an address like 127.0.0.1:8080")
}

pub(super) fn number(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "must be a whole number from 0 to 4294967295")
}

pub(super) fn truth(text: &str) -> Result<bool, &'static str> {
    text.parse().map_err(|_| "must be true or false")
}

/// A number of bytes, with a unit.
pub(super) fn bytes(text: &str) -> Result<u64, &'static str> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1_u64 << 40)];
    let number = |(suffix, unit): (&str, u64)| {
        text.strip_suffix(suffix)?.trim_end().parse::<u64>().ok()?.checked_mul(unit)
    };
    units.into_iter().find_map(number).ok_or("must be a size like 512MiB or 4GiB")
}

/// A number of sessions. 0 would be no limit by the pattern of the other variables, or no log-in at all.
pub(super) fn sessions(text: &str) -> Result<u32, &'static str> {
    let limit = text.parse().ok().filter(|limit| (1..=SESSIONS_MAX).contains(limit));
    limit.ok_or("must be a whole number from 1 to 1000")
}

pub(super) fn per_second(text: &str) -> Result<u32, &'static str> {
    let limit = number(text)?;
    if limit > 1_000_000 { Err("must be at most 1000000") } else { Ok(limit) }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

pub(super) fn postgres_url(text: &str) -> Result<SecretString, String> {
    Address::parse(text).map_err(|error| error.to_string())?;
    Ok(SecretString::from(text))
}

pub(super) fn redis_url(text: &str) -> Result<SecretString, String> {
    RedisUrl::parse(text).map(|_| SecretString::from(text))
}

pub(super) fn prefix(text: &str) -> Result<String, &'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if !text.is_empty() && text.len() <= 64 && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 64 letters, digits, or any of - _ . :")
    }
}

pub(super) fn folder(text: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    if path.is_dir() { Ok(path) } else { Err("must be a folder that exists") }
}

/// `http(s)://host:port/path`. The path becomes a part of routes, headers and cookies, so it has only characters
/// that mean the same in all of them.
pub(super) fn public_url(text: &str) -> Result<String, &'static str> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let rest = rest.ok_or("must start with http:// or https://")?;
    if rest.contains(['?', '#']) {
        return Err("must have neither a query nor a fragment");
    }
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if !is_authority(authority) {
        return Err("must name a host, and perhaps a port, as in https://example.com:8443");
    }
    let path = path.trim_end_matches('/');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    let is_segment = |part: &str| !["", ".", ".."].contains(&part) && part.chars().all(is_plain);
    if !path.split('/').skip(1).all(is_segment) {
        return Err(
            "must have a path of letters, digits and - . _ ~, as in https://example.com/registry",
        );
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn is_authority(text: &str) -> bool {
    let (is_host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').unwrap_or_default();
        (host.parse::<std::net::Ipv6Addr>().is_ok(), port)
    } else {
        let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        (!host.is_empty() && host.chars().all(is_plain), port)
    };
    let is_port = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    is_host && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// The collector's address. The path of the spans is added to it.
pub(super) fn otlp_endpoint(text: &str) -> Result<String, &'static str> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    if is_authority(host) {
        Ok(text.to_owned())
    } else {
        Err("must be a URL of OTLP over HTTP, like http://collector:4318")
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "must be a duration like 500ms, 30s or 5m")
}

pub(super) fn token_ttl(text: &str) -> Result<Duration, &'static str> {
    let ttl =
        humantime::parse_duration(text).map_err(|_| "must be a duration like 90s, 15m or 1h")?;
    if ttl < Duration::from_secs(1) || ttl > TOKEN_TTL_MAX || ttl.subsec_nanos() != 0 {
        return Err("must be whole seconds, from 1s to 24h");
    }
    Ok(ttl)
}

pub(super) fn drain_delay(text: &str) -> Result<Duration, &'static str> {
    let delay =
        humantime::parse_duration(text).map_err(|_| "must be a duration like 0s, 500ms or 5s")?;
    if delay > DRAIN_DELAY_MAX { Err("must be at most 5m") } else { Ok(delay) }
}

pub(super) fn cookie_binding(text: &str) -> Result<CookieBinding, &'static str> {
    match text {
        "first-use" => Ok(CookieBinding::FirstUse),
        "strict" => Ok(CookieBinding::Strict),
        "always" => Ok(CookieBinding::Always),
        "off" => Ok(CookieBinding::Off),
        _ => Err("must be first-use, strict, always or off"),
    }
}

pub(super) fn cidrs(text: &str) -> Result<Vec<IpNet>, String> {
    let cidr = |text: &str| {
        text.parse::<IpNet>()
            .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
            .map_err(|_| format!("{text} is not a CIDR"))
    };
    list(text).map(cidr).collect()
}

/// Origins as browsers write them (RFC 6454, section 6.2): without a path and without a wildcard, because
/// responses to pages may carry a cookie.
pub(super) fn origins(text: &str) -> Result<Vec<String>, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]".contains(c);
    let origin = |text: &str| {
        let https = text.strip_prefix("https://").map(|host| (host, ":443"));
        let of = https.or_else(|| text.strip_prefix("http://").map(|host| (host, ":80")));
        if let Some((host, port)) = of
            && host.ends_with(port)
        {
            // No page would ever match it.
            Err(format!("{text} has the default port, which browsers leave out"))
        } else if of.is_some_and(|(host, _)| !host.is_empty() && host.chars().all(plain)) {
            Ok(text.to_owned())
        } else {
            Err(format!("{text} is not an origin like https://example.com"))
        }
    };
    list(text).map(origin).collect()
}

pub(super) fn log_directives(text: &str) -> Result<String, &'static str> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("must be off, error, warn, info, debug or directives"),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, &'static str> {
    match text {
        "pretty" => Ok(LogFormat::Pretty),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be pretty or json"),
    }
}
