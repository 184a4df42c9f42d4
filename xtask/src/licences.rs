//! Licences of all dependencies against the list in `deny.toml`, for machines without cargo-deny.

use anyhow::{Context, Result, bail};

use crate::{sh, tidy::Graph};

/// Checks every package in the tree; runs cargo-deny too where it is installed.
pub(crate) fn check() -> Result<()> {
    let path = sh::root().join("deny.toml");
    let text = std::fs::read_to_string(&path).context("no deny.toml")?;
    let allowed = allow_list(&text).context("deny.toml has no `allow = [` under [licenses]")?;
    let graph = Graph::load()?;
    let mut refused = Vec::new();
    for package in graph.packages() {
        let licence = package.license.as_deref().unwrap_or("");
        if !acceptable(licence, &allowed) {
            refused.push(format!("{} {}: `{licence}`", package.name, package.version));
        }
    }
    if !refused.is_empty() {
        bail!("licences that deny.toml does not allow:\n  {}", refused.join("\n  "));
    }
    println!("licences: {} packages, all allowed", graph.packages().count());
    if sh::find("cargo-deny").is_some() {
        sh::run(&mut sh::cargo(["deny", "check", "licenses", "bans", "sources"]))?;
    }
    Ok(())
}

/// The strings of `allow = [ … ]` in the section `[licenses]`.
fn allow_list(toml: &str) -> Option<Vec<String>> {
    let section = toml.split("\n[licenses]\n").nth(1)?;
    let section = section.split("\n[").next()?;
    let list = section.split("allow = [").nth(1)?.split(']').next()?;
    // Every other piece between quotes is a string; comments hold no quotes.
    Some(list.split('"').skip(1).step_by(2).map(str::to_owned).collect())
}

/// Whether an SPDX expression can be satisfied from the list: `AND` needs all, `OR` one;
/// `AND` binds tighter, and old manifests write `/` for `OR`.
fn acceptable(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    let satisfied = any(&mut rest, allowed);
    satisfied == Some(true) && rest.is_empty()
}

fn any(rest: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let mut satisfied = all(rest, allowed)?;
    while take(rest, "OR") {
        satisfied |= all(rest, allowed)?;
    }
    Some(satisfied)
}

fn all(rest: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let mut satisfied = one(rest, allowed)?;
    while take(rest, "AND") {
        satisfied &= one(rest, allowed)?;
    }
    Some(satisfied)
}

/// A licence, with its exception if it has one, or an expression in parentheses.
fn one(rest: &mut &[&str], allowed: &[String]) -> Option<bool> {
    if take(rest, "(") {
        let satisfied = any(rest, allowed)?;
        return take(rest, ")").then_some(satisfied);
    }
    let (name, after) = rest.split_first()?;
    *rest = after;
    let mut licence = (*name).to_owned();
    if take(rest, "WITH") {
        let (exception, after) = rest.split_first()?;
        *rest = after;
        licence = format!("{licence} WITH {exception}");
    }
    Some(allowed.contains(&licence))
}

fn take(rest: &mut &[&str], word: &str) -> bool {
    let found = rest.first() == Some(&word);
    if found {
        *rest = &rest[1..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_follow_spdx() {
        let allowed = ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        let fine = |expression| acceptable(expression, &allowed);
        assert!(fine("MIT OR Apache-2.0"));
        assert!(fine("MIT/Apache-2.0"));
        assert!(fine("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(fine("Apache-2.0 WITH LLVM-exception"));
        assert!(!fine("MIT AND Apache-2.0"));
        assert!(!fine("Apache-2.0"));
        assert!(!fine("GPL-3.0-only"));
        assert!(!fine(""));
        assert!(!fine("(MIT"));
    }

    #[test]
    fn our_own_list_is_readable() {
        let text = std::fs::read_to_string(sh::root().join("deny.toml")).unwrap();
        assert!(allow_list(&text).unwrap().contains(&"MIT".to_owned()));
    }
}
