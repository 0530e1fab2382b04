//! Parsers that collect all mistakes instead of stopping at the first mistake.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use clap::CommandFactory as _;
use http::Uri;

use crate::telemetry::LogFilter;
use crate::types::{AllowList, Glob};

/// The session durations that STS accepts, in seconds.
const SESSION: RangeInclusive<u64> = 900..=43_200;
/// The largest number of ports in `--port-range`. Network policies must open all of them, so a large range would leave a large hole.
const MAX_PORTS: u16 = 64;

/// The mistakes found so far. A parser that reports a mistake still returns a value, which is never used.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<String>);

// === impl Problems ===

impl Problems {
    pub(super) fn add(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    pub(super) fn into_result<T>(self, value: T) -> Result<T, Vec<String>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }

    /// Reports `PODROLE_` variables that belong to no flag. Without this check, podrole would silently ignore a variable with a
    /// typo in its name.
    pub(super) fn unknown_variables(&mut self, environment: &HashMap<String, String>) {
        #[derive(clap::Parser)]
        struct Probe {
            #[command(flatten)]
            _run: super::RunArgs,
        }
        let command = Probe::command();
        let known: Vec<&str> = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
        let mut unknown: Vec<&str> = environment
            .keys()
            .map(String::as_str)
            // For a Service named podrole, Kubernetes sets PODROLE_SERVICE_HOST, PODROLE_PORT and similar variables.
            .filter(|name| name.starts_with("PODROLE_") && !known.contains(name))
            .filter(|name| {
                !(name.starts_with("PODROLE_SERVICE_")
                    || name.starts_with("PODROLE_PORT") && *name != "PODROLE_PORT_RANGE")
            })
            .collect();
        unknown.sort_unstable();
        for name in unknown {
            self.add(format!("{name} is not a setting of podrole: see podrole run --help"));
        }
    }

    pub(super) fn required(&mut self, flag: &str, value: Option<String>) -> String {
        let value = value.unwrap_or_default();
        if value.trim().is_empty() {
            self.add(format!("{flag} is required"));
        }
        value
    }

    pub(super) fn choice<T: Copy>(&mut self, flag: &str, text: &str, choices: &[(&str, T)]) -> Option<T> {
        let chosen = choices.iter().find(|(name, _)| *name == text);
        if chosen.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.add(format!("{flag}: {text:?} is not one of: {}", names.join(", ")));
        }
        chosen.map(|(_, value)| *value)
    }

    pub(super) fn boolean(&mut self, flag: &str, text: &str) -> bool {
        self.choice(flag, text, &[("true", true), ("false", false)]).unwrap_or_default()
    }

    pub(super) fn parsed<T, E: Display>(
        &mut self,
        flag: &str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        parse(text).map_err(|error| self.add(format!("{flag}: {text:?} {error}"))).ok()
    }

    pub(super) fn globs(&mut self, flag: &str, texts: &[String]) -> Vec<Glob> {
        let mut globs = Vec::new();
        for text in texts {
            if text.trim().starts_with("arn:") {
                globs.extend(self.parsed(flag, text, Glob::parse));
            } else {
                self.add(format!("{flag}: {text:?} is not a pattern over full ARNs (arn:aws:iam::ACCOUNT:role/…)"));
            }
        }
        globs
    }

    pub(super) fn allow(&mut self, flag: &str, texts: &[String]) -> HashMap<Arc<str>, AllowList> {
        let mut patterns: HashMap<Arc<str>, Vec<&str>> = HashMap::new();
        for text in texts {
            match text.split_once('=') {
                Some((namespace, globs)) if !namespace.trim().is_empty() => {
                    patterns.entry(namespace.trim().into()).or_default().extend(globs.split(','));
                }
                Some(_) | None => self.add(format!("{flag}: {text:?} is not NAMESPACE=GLOB[,GLOB]")),
            }
        }
        let list = |(namespace, globs): (Arc<str>, Vec<&str>)| {
            let list = AllowList::from_globs(globs.into_iter());
            list.map_err(|error| self.add(format!("{flag}: the list for {namespace} {error}")))
                .ok()
                .map(|list| (namespace, list))
        };
        patterns.into_iter().filter_map(list).collect()
    }

    /// Parses a session duration: `3600`, `3600s`, `60m` or `1h`.
    pub(super) fn duration(&mut self, flag: &str, text: &str) -> Duration {
        let (digits, unit) = match text.char_indices().next_back() {
            Some((at, 's')) => (&text[..at], 1),
            Some((at, 'm')) => (&text[..at], 60),
            Some((at, 'h')) => (&text[..at], 3600),
            Some(_) | None => (text, 1),
        };
        let seconds = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|n| SESSION.contains(n));
        if seconds.is_none() {
            self.add(format!("{flag}: {text:?} is not a duration between 15m and 12h"));
        }
        Duration::from_secs(seconds.unwrap_or(3600))
    }

    pub(super) fn ports(&mut self, flag: &str, text: &str) -> RangeInclusive<u16> {
        let range = text.split_once('-').unwrap_or((text, text));
        let parsed = range.0.trim().parse::<u16>().ok().zip(range.1.trim().parse::<u16>().ok());
        match parsed.filter(|(first, last)| *first >= 1024 && first <= last && last - first < MAX_PORTS) {
            Some((first, last)) => first..=last,
            None => {
                self.add(format!(
                    "{flag}: {text:?} is not a range of at most {MAX_PORTS} ports above 1023, such as 18181-18188"
                ));
                18181..=18188
            }
        }
    }

    /// Parses `10.0.0.5:9442` or `[fd00::5]:9442`. Brackets around IPv4 are accepted too, because a manifest is written before the
    /// address family of its node is known.
    pub(super) fn address(&mut self, flag: &str, text: &str) -> SocketAddr {
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
        let bracketed = bracketed.and_then(|(ip, port)| Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?)));
        let address = bracketed.or_else(|| text.parse().ok());
        if address.is_none() {
            self.add(format!("{flag}: {text:?} is not ADDRESS:PORT"));
        }
        address.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 9441).into())
    }

    pub(super) fn taint(&mut self, flag: &str, text: &str) -> Option<Arc<str>> {
        let (prefix, name) = text.split_once('/').unwrap_or(("x", text));
        let part = |text: &str, most: usize| {
            let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
            let (first, last) = (text.bytes().next(), text.bytes().next_back());
            let all = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            text.len() <= most && edge(first) && edge(last) && all
        };
        if part(prefix, 253) && part(name, 63) {
            return Some(text.into());
        }
        self.add(format!("{flag}: {text:?} is not a valid taint key, such as podrole.dev/not-ready"));
        None
    }

    pub(super) fn region(&mut self, text: Option<String>) -> Option<Arc<str>> {
        let text = text?;
        // The region becomes part of a host name.
        if text.is_empty()
            || text.len() > 32
            || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            self.add(format!("--region: {text:?} is not an AWS region"));
        }
        Some(text.into())
    }

    pub(super) fn filter(&mut self, flag: &str, text: &str) -> LogFilter {
        LogFilter::parse(text).unwrap_or_else(|error| {
            self.add(format!("{flag}: {text:?} is not a log filter: {error}"));
            LogFilter::default()
        })
    }

    pub(super) fn endpoint(&mut self, environment: &HashMap<String, String>) -> Uri {
        let (endpoint, problem) = metadata_endpoint(environment);
        self.0.extend(problem);
        endpoint
    }
}

/// The URL of the node's metadata service. If the variable in `environment` is invalid, returns EC2's address and an error message.
pub fn metadata_endpoint(environment: &HashMap<String, String>) -> (Uri, Option<String>) {
    const NAME: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
    let default = || Uri::from_static("http://169.254.169.254");
    let Some(text) = environment.get(NAME).filter(|text| !text.is_empty()) else { return (default(), None) };
    match text.parse::<Uri>() {
        Ok(uri) if uri.host().is_some() && uri.scheme_str() == Some("http") => (uri, None),
        Ok(_) | Err(_) => (default(), Some(format!("{NAME}: {text:?} is not http://HOST[:PORT]"))),
    }
}
