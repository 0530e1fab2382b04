//! Searches for leaked secrets: finds planted secrets in everything that a daemon wrote, in every encoding in which
//! they could appear.
//!
//! A test plants secrets ([`crate::sts::Sts::set_planted_secret`]) or uses those that every rig has ([`planted`]), lets
//! the daemon work, and searches at the end: [`search_rig`] for all output of a rig's daemons, [`search`] for any
//! bytes.

mod forms;
mod logs;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::daemon::{self, Daemon};
use crate::imds::Imds;
use crate::proc;
use crate::rig::{ControlPlane, Rig};
use crate::sts::Sts;

pub use forms::Form;
pub(crate) use logs::search_logs;

/// Minimum length of a secret: shorter texts match by chance.
pub const SHORTEST: usize = 8;
/// Timeout for an answer of a running daemon, which may have just started.
const ANSWER: Duration = Duration::from_secs(5);

/// A secret to search for.
#[derive(Clone, PartialEq, Eq)]
pub struct Planted {
    name: String,
    text: String,
}

impl Planted {
    /// A secret of at least [`SHORTEST`] bytes, and its name in reports.
    pub fn new(name: &str, text: &str) -> Result<Self> {
        ensure!(text.len() >= SHORTEST, "{name} has {} bytes, too few to search for", text.len());
        Ok(Self { name: name.to_owned(), text: text.to_owned() })
    }

    /// The secret's name in reports.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Planted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Omits the secret: the report of a leak must not be a leak itself.
        write!(f, "Planted({})", self.name)
    }
}

/// A location at which a secret was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The secret's name.
    pub secret: String,
    /// The encoding.
    pub form: Form,
    /// The file or endpoint.
    pub place: String,
    /// The offset in bytes.
    pub offset: usize,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}) in {} at byte {}", self.secret, self.form, self.place, self.offset)
    }
}

/// All occurrences of any of the secrets in `bytes`, in any encoding.
pub fn search(planted: &[Planted], place: &str, bytes: &[u8]) -> Vec<Hit> {
    Needles::new(planted).search(place, bytes)
}

/// Prepared secrets, for repeated searches.
pub struct Needles<'a> {
    /// Needles by their first bytes.
    by_start: HashMap<[u8; SHORTEST], Vec<Needle<'a>>>,
    /// For each pair of bytes, whether a needle starts with it. This alone rules out nearly every position.
    starts: Vec<bool>,
}

struct Needle<'a> {
    secret: &'a Planted,
    form: Form,
    bytes: Vec<u8>,
}

impl<'a> Needles<'a> {
    /// Prepares all encodings of all secrets.
    pub fn new(planted: &'a [Planted]) -> Self {
        let mut needles = Self { by_start: HashMap::new(), starts: vec![false; 1 << 16] };
        for secret in planted {
            for (form, bytes) in forms::all(&secret.text) {
                let Some(start) = bytes.first_chunk::<SHORTEST>() else { continue };
                needles.starts[pair(start)] = true;
                needles.by_start.entry(*start).or_default().push(Needle { secret, form, bytes });
            }
        }
        needles
    }

    /// All occurrences of any secret in `bytes`.
    pub fn search(&self, place: &str, bytes: &[u8]) -> Vec<Hit> {
        let mut hits = Vec::new();
        for offset in 0..bytes.len() {
            let rest = &bytes[offset..];
            let Some(start) = rest.first_chunk::<SHORTEST>() else { break };
            if !self.starts[pair(start)] {
                continue;
            }
            let here = self.by_start.get(start).into_iter().flatten().filter(|needle| rest.starts_with(&needle.bytes));
            hits.extend(here.map(|needle| Hit {
                secret: needle.secret.name.clone(),
                form: needle.form,
                place: place.to_owned(),
                offset,
            }));
        }
        hits
    }
}

fn pair(start: &[u8; SHORTEST]) -> usize {
    usize::from(u16::from_be_bytes([start[0], start[1]]))
}

impl fmt::Debug for Needles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Needles({})", self.by_start.values().map(Vec::len).sum::<usize>())
    }
}

/// The secrets that every rig has: the node role's, those in the node's user data, and all that STS has issued so far.
pub fn planted<A: ControlPlane>(rig: &Rig<A>) -> Result<Vec<Planted>> {
    of_the_cloud(&rig.imds, &rig.sts)
}

/// The same for a cloud without a rig.
pub(crate) fn of_the_cloud(imds: &Imds, sts: &Sts) -> Result<Vec<Planted>> {
    let node = imds.credentials();
    let mut planted = vec![
        Planted::new("the node role's secret key", &node.secret_access_key)?,
        Planted::new("the node role's session token", &node.token)?,
    ];
    if let Some((_, token)) = imds.facts().user_data.trim().rsplit_once('=') {
        planted.push(Planted::new("the node's bootstrap token", token)?);
    }
    for issued in sts.issued() {
        planted.push(Planted::new(&format!("the secret key of {}", issued.access_key_id), &issued.secret_access_key)?);
        // Logs that truncate long values show their beginnings. The first 16 characters are the same in all tokens, so
        // skip them.
        let token = issued.session_token.get(16..48).unwrap_or(&issued.session_token);
        planted.push(Planted::new(&format!("the session token of {}", issued.access_key_id), token)?);
    }
    Ok(planted)
}

/// Searches all output of the rig's daemons: their logs and audit lines, the output of other subcommands, and the
/// metrics and state of the current daemon. Hits name the place `log` or `audit` for the current daemon, otherwise the
/// file's name.
pub fn search_rig<A: ControlPlane>(rig: &Rig<A>, planted: &[Planted]) -> Result<Vec<Hit>> {
    let daemon = rig.daemon().ok();
    let needles = Needles::new(planted);
    let own = daemon.map(Daemon::files);
    let mut hits = Vec::new();
    for path in ["/metrics", "/readyz?verbose", "/livez"] {
        let said = daemon.map(|daemon| last_word(daemon, path)).transpose()?.flatten();
        hits.extend(said.into_iter().flat_map(|body| needles.search(path, body.as_bytes())));
    }
    for (path, bytes) in daemon::written()? {
        let name = own.iter().flatten().find(|(_, file)| *file == path).map(|(name, _)| (*name).to_owned());
        let place = name.unwrap_or_else(|| path.file_name().unwrap_or_default().display().to_string());
        hits.extend(needles.search(&place, &bytes));
    }
    Ok(hits)
}

/// The response of a daemon's admin endpoint, or `None` if the daemon has ended. A running daemon that does not answer
/// is an error, because it was not searched.
fn last_word(daemon: &Daemon, path: &str) -> Result<Option<String>> {
    proc::until(&format!("{path} of a running daemon"), ANSWER, || match daemon.admin(path) {
        Ok((_, body)) => Ok(Some(Some(body))),
        // It may be about to listen or about to end.
        Err(_) if daemon.lives()? => Ok(None),
        Err(_) => Ok(Some(None)),
    })
}

/// Fails with a list of the hits, if there are any.
pub(crate) fn none(hits: &[Hit]) -> Result<()> {
    let list: Vec<String> = hits.iter().take(20).map(ToString::to_string).collect();
    ensure!(hits.is_empty(), "{} secrets leaked:\n{}", hits.len(), list.join("\n"));
    Ok(())
}

/// Fails if any of the rig's daemons has leaked a secret of the rig or of `more`. Call it at the end of any trial.
pub fn none_got_out<A: ControlPlane>(rig: &Rig<A>, more: &[Planted]) -> Result<()> {
    let mut planted = planted(rig)?;
    planted.extend_from_slice(more);
    none(&search_rig(rig, &planted)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalr/XUtn+FEMI=K7MDENG";

    fn forms_found(text: &[u8]) -> Result<Vec<Form>> {
        let planted = [Planted::new("it", SECRET)?];
        let mut forms: Vec<Form> = search(&planted, "here", text).into_iter().map(|hit| hit.form).collect();
        forms.dedup();
        Ok(forms)
    }

    #[test]
    fn every_form_is_found_wherever_it_is() -> Result<()> {
        for (form, bytes) in forms::all(SECRET) {
            for before in ["", "x", "xy\n", "{\"a\":\""] {
                let text = [before.as_bytes(), &bytes, b"\"} and more"].concat();
                assert!(forms_found(&text)?.contains(&form), "{form:?} behind {before:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn base64_is_found_at_any_alignment_and_beside_anything() -> Result<()> {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
        for before in 0..7 {
            for after in 0..4 {
                let plain = format!("{}{SECRET}{}", "<".repeat(before), ">".repeat(after));
                for coded in [STANDARD.encode(&plain), URL_SAFE.encode(&plain), STANDARD_NO_PAD.encode(&plain)] {
                    let found = forms_found(coded.as_bytes())?;
                    assert!(found.contains(&Form::Base64), "{before} before, {after} behind");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn nothing_else_is_found() -> Result<()> {
        assert!(forms_found(&SECRET.as_bytes()[1..])?.is_empty());
        assert!(forms_found(&SECRET.as_bytes()[..SECRET.len() - 1])?.is_empty());
        assert!(forms_found(b"")?.is_empty());
        assert!(Planted::new("short", "seven77").is_err());
        assert!(!format!("{:?}", Planted::new("it", SECRET)?).contains(SECRET));
        Ok(())
    }
}
