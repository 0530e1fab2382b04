//! Searches the log files of a node that has no rig.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Hit, Needles, Planted};

/// Searches all log files below a directory.
pub(crate) fn search_logs(dir: &Path, planted: &[Planted]) -> Result<Vec<Hit>> {
    let needles = Needles::new(planted);
    let mut hits = Vec::new();
    for path in logs_below(dir)? {
        match fs::read(&path) {
            Ok(bytes) => hits.extend(needles.search(&path.display().to_string(), &bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
    Ok(hits)
}

/// All log files below a directory. Skips links and files that vanish meanwhile.
fn logs_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(logs),
        Err(error) => return Err(error).with_context(|| format!("list {}", dir.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => logs.extend(logs_below(&entry.path())?),
            Ok(kind) if kind.is_file() && entry.path().extension().is_some_and(|what| what == "log") => {
                logs.push(entry.path());
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(logs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalr/XUtn+FEMI=K7MDENG";

    #[test]
    fn every_log_below_a_directory_is_searched() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("podrole-secrets-{}", std::process::id()));
        fs::create_dir_all(dir.join("pods/one"))?;
        let planted = [Planted::new("it", SECRET)?];
        for (name, found) in [("a.log", 1), ("pods/one/0.log", 2), ("pods/state", 2)] {
            fs::write(dir.join(name), format!("x {SECRET}"))?;
            assert_eq!(search_logs(&dir, &planted)?.len(), found, "{name}");
        }
        fs::remove_dir_all(&dir)?;
        assert!(search_logs(&dir, &planted)?.is_empty());
        Ok(())
    }
}
