//! The encodings in which a secret can appear in a text.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// The encoding in which a secret appears in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// Unchanged.
    Raw,
    /// Base64, in either alphabet, of a text that contains the secret.
    Base64,
    /// Percent-encoded, as in a URL or a form.
    Url,
    /// JSON string escapes, including unnecessary ones.
    Json,
    /// Hexadecimal.
    Hex,
    /// A list of numbers, as `Debug` prints bytes.
    Numbers,
}

/// All distinct encodings of `secret` that are long enough for a search.
pub(super) fn all(secret: &str) -> Vec<(Form, Vec<u8>)> {
    let mut forms = vec![(Form::Raw, secret.as_bytes().to_vec())];
    let mut add = |form, bytes: Vec<u8>| {
        if bytes.len() >= super::SHORTEST && !forms.iter().any(|(_, other)| *other == bytes) {
            forms.push((form, bytes));
        }
    };
    for shift in 0..3 {
        add(Form::Base64, base64(secret, shift, |bytes| STANDARD_NO_PAD.encode(bytes)));
        add(Form::Base64, base64(secret, shift, |bytes| URL_SAFE_NO_PAD.encode(bytes)));
    }
    for upper in [true, false] {
        add(Form::Url, url(secret, upper).into_bytes());
        add(Form::Hex, hex(secret, upper).into_bytes());
    }
    let slash = |c| c == '/';
    let beyond = |c: char| !c.is_ascii_alphanumeric();
    add(Form::Json, json(secret, |_| false, slash).into_bytes());
    add(Form::Json, json(secret, |_| false, |_| false).into_bytes());
    for upper in [true, false] {
        let html = json(secret, |c| matches!(c, '<' | '>' | '&' | '+' | '=' | '\''), |_| false);
        let all = json(secret, beyond, |_| false);
        for text in [html, all] {
            add(Form::Json, if upper { upper_escapes(&text) } else { text }.into_bytes());
        }
    }
    let numbers: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
    add(Form::Numbers, numbers.join(", ").into_bytes());
    add(Form::Numbers, numbers.join(",").into_bytes());
    forms
}

/// The characters that all base64 encodings of the secret at an offset of `shift` bytes (modulo 3) have in common,
/// whatever precedes and follows it.
fn base64(secret: &str, shift: usize, encode: impl Fn(&[u8]) -> String) -> Vec<u8> {
    let text = encode(&[&[0; 2][..shift], secret.as_bytes()].concat());
    // Omit the characters that also contain bits of a neighboring byte.
    let (first, last) = ((8 * shift).div_ceil(6), 8 * (shift + secret.len()) / 6);
    text.as_bytes()[first..last].to_vec()
}

fn url(secret: &str, upper: bool) -> String {
    let mut text = String::new();
    for byte in secret.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.push_str(&hex_byte(byte, upper));
        }
    }
    text
}

fn hex(secret: &str, upper: bool) -> String {
    secret.bytes().map(|byte| hex_byte(byte, upper)).collect()
}

fn hex_byte(byte: u8, upper: bool) -> String {
    if upper { format!("{byte:02X}") } else { format!("{byte:02x}") }
}

/// A JSON string without quotes. Escapes `coded` characters as `\u` and `slashed` ones with a backslash, in addition to
/// the required escapes.
fn json(secret: &str, coded: impl Fn(char) -> bool, slashed: impl Fn(char) -> bool) -> String {
    let mut text = String::new();
    for c in secret.chars() {
        if coded(c) || c.is_control() {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(text, "\\u{unit:04x}").expect("writing to a String cannot fail");
            }
        } else {
            if matches!(c, '"' | '\\') || slashed(c) {
                text.push('\\');
            }
            text.push(c);
        }
    }
    text
}

/// The same with upper-case digits in every `\u` escape.
fn upper_escapes(text: &str) -> String {
    let mut parts = text.split("\\u");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(4).unwrap_or((part, ""));
        out.push_str("\\u");
        out.push_str(&digits.to_ascii_uppercase());
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_what_other_programs_write() {
        let forms = all("a/b+c=d\"e");
        let has = |form, text: &str| forms.iter().any(|(f, bytes)| *f == form && bytes == text.as_bytes());
        assert!(has(Form::Raw, "a/b+c=d\"e"));
        assert!(has(Form::Url, "a%2Fb%2Bc%3Dd%22e") && has(Form::Url, "a%2fb%2bc%3dd%22e"));
        assert!(has(Form::Json, "a\\/b+c=d\\\"e") && has(Form::Json, "a/b+c=d\\\"e"));
        assert!(has(Form::Json, "a/b\\u002bc\\u003dd\\\"e") && has(Form::Json, "a\\u002Fb\\u002Bc\\u003Dd\\u0022e"));
        assert!(has(Form::Hex, "612f622b633d642265"));
        assert!(has(Form::Numbers, "97, 47, 98, 43, 99, 61, 100, 34, 101"));
    }
}
