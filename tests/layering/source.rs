//! Lists the paths that a source file uses.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// All Rust files below `directory`, sorted.
pub(super) fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the source") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Words, `::` and single punctuation characters, from Rust's own lexer, without comments and literals.
pub(super) fn tokens(text: &str) -> Vec<String> {
    let stream = text.parse::<TokenStream>().expect("a source file that compiles");
    let mut tokens = Vec::new();
    flatten(stream, &mut tokens);
    tokens
}

fn flatten(stream: TokenStream, tokens: &mut Vec<String>) {
    let mut half_a_path = false;
    for tree in stream {
        match tree {
            TokenTree::Ident(word) => tokens.push(word.to_string()),
            TokenTree::Literal(_) => {}
            TokenTree::Punct(sign) if half_a_path && sign.as_char() == ':' => {
                tokens.pop();
                tokens.push("::".into());
                half_a_path = false;
                continue;
            }
            TokenTree::Punct(sign) => {
                tokens.push(sign.to_string());
                half_a_path = sign.as_char() == ':' && sign.spacing() == Spacing::Joint;
                continue;
            }
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(open.into());
                flatten(group.stream(), tokens);
                tokens.push(close.into());
            }
        }
        half_a_path = false;
    }
}

/// `tokens` without items marked `#[cfg(test)]`.
pub(super) fn without_tests(tokens: &[String]) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::with_capacity(tokens.len());
    let mut i = 0;
    while i < tokens.len() {
        if tokens[i..].iter().map(String::as_str).take(MARK.len()).eq(MARK) {
            i = after_item(tokens, i + MARK.len());
        } else {
            kept.push(tokens[i].clone());
            i += 1;
        }
    }
    kept
}

/// The index after the `;` or block that ends the item at `start`.
fn after_item(tokens: &[String], start: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(start) {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return i + 1;
                }
            }
            ";" if depth == 0 => return i + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Every path in `tokens`, with one entry per imported item. A path that begins with a child module is prefixed with `self`.
pub(super) fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let is_child = |i: usize| tokens[i] == "mod" && tokens.get(i + 2).is_some_and(|next| next == ";");
    let children: BTreeSet<&String> = (0..tokens.len()).filter(|i| is_child(*i)).map(|i| &tokens[i + 1]).collect();
    let mut paths = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if tokens[i] == "use" && tokens.get(i + 1).is_some_and(|next| next != "<") {
            i = tree(tokens, i + 1, &[], &mut paths);
        } else if is_word(&tokens[i]) && (i == 0 || tokens[i - 1] != ".") {
            let mut path = vec![tokens[i].clone()];
            i += 1;
            while i + 1 < tokens.len() && tokens[i] == "::" && is_word(&tokens[i + 1]) {
                path.push(tokens[i + 1].clone());
                i += 2;
            }
            // A single word is not a path, but `unsafe` is forbidden by itself.
            if path.len() > 1 || path[0] == "unsafe" {
                paths.push(path);
            }
        } else {
            i += 1;
        }
    }
    for path in &mut paths {
        if path.first().is_some_and(|first| children.contains(first)) {
            path.insert(0, "self".into());
        }
    }
    paths
}

/// Reads the use tree at `i`, adds its leaves to `paths` and returns the index after it.
fn tree(tokens: &[String], mut i: usize, prefix: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    while i < tokens.len() {
        match tokens[i].as_str() {
            "::" => i += 1,
            "{" => {
                i += 1;
                while i < tokens.len() && tokens[i] != "}" {
                    i = tree(tokens, i, &path, paths);
                    if i < tokens.len() && tokens[i] == "," {
                        i += 1;
                    }
                }
                return i + 1;
            }
            "as" => i += 2,
            "*" => i += 1,
            "self" if !path.is_empty() => i += 1,
            word if is_word(word) => {
                path.push(tokens[i].clone());
                i += 1;
            }
            _ => break,
        }
    }
    paths.push(path);
    i
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}
