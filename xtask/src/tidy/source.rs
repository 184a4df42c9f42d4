//! Rules about the text of files.

use super::{Problem, Source};

/// Longer source files are split: a file is read in one sitting.
const MAX_FILE_LINES: usize = 700;

/// Longer functions get a hint (`--hints`), not an error: some tables are just long.
const LONG_FUNCTION_LINES: usize = 70;

/// Finished code has none of these. Split in two so that this file passes its own rule.
const UNFINISHED: &[&str] = &[concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!(")];

/// Where files of one machine lie; elsewhere these mean nothing.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/Use", "rs/")];

const IGNORED: &str = concat!("#[ig", "nore");
const SLEEPS: &[&str] = &[concat!("thread::sl", "eep("), concat!("time::sl", "eep(")];
const POLL_MARK: &str = "// poll:";

/// What the base crate never mentions: it computes, others do.
const BASE_NEVER: &[&str] =
    &["std::fs", "std::process", "TcpStream", "TcpListener", "UdpSocket", "tokio::", "SystemTime::now"];

/// All rules over all files.
pub(super) fn check(files: &[Source]) -> Vec<Problem> {
    let rules: &[fn(&Source) -> Vec<Problem>] = &[
        long_file,
        unfinished,
        machine_paths,
        ignored_tests,
        sleeping_tests,
        impure_base,
        undocumented_crate,
    ];
    files.iter().flat_map(|file| rules.iter().flat_map(move |rule| rule(file))).collect()
}

fn is_rust(file: &Source) -> bool {
    file.path.ends_with(".rs")
}

/// Lines that satisfy `hit`, with their index.
fn hits(file: &Source, hit: impl Fn(&str) -> bool) -> impl Iterator<Item = (usize, &str)> {
    file.text.lines().enumerate().filter(move |(_, line)| hit(line))
}

fn long_file(file: &Source) -> Vec<Problem> {
    let lines = file.text.lines().count();
    if !is_rust(file) || lines <= MAX_FILE_LINES {
        return Vec::new();
    }
    vec![Problem::new(&file.path, format!("{lines} lines, at most {MAX_FILE_LINES}; split it"))]
}

fn unfinished(file: &Source) -> Vec<Problem> {
    if !is_rust(file) {
        return Vec::new();
    }
    let word = |line: &str| UNFINISHED.iter().find(|word| line.contains(**word)).copied();
    hits(file, |line| word(line).is_some())
        .map(|(index, line)| {
            Problem::at(file, index, format!("`{}…)` in finished code", word(line).unwrap_or_default()))
        })
        .collect()
}

fn machine_paths(file: &Source) -> Vec<Problem> {
    hits(file, |line| MACHINE_PATHS.iter().any(|path| names_path(line, path)))
        .map(|(index, _)| Problem::at(file, index, "names a path of one machine"))
        .collect()
}

/// Whether `line` has `path` as the beginning of a path, not inside a longer one or an address.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|sign| !sign.is_alphanumeric() && !"._-~/*}>".contains(sign))
    })
}

fn ignored_tests(file: &Source) -> Vec<Problem> {
    if !is_rust(file) {
        return Vec::new();
    }
    hits(file, |line| line.trim_start().starts_with(IGNORED))
        .map(|(index, _)| {
            Problem::at(file, index, "a test that nobody runs; move it to the lab or delete it")
        })
        .collect()
}

/// A test waits for a condition. The pause between two looks at it is marked `// poll:`.
fn sleeping_tests(file: &Source) -> Vec<Problem> {
    let Some(first) = first_test_line(file) else { return Vec::new() };
    hits(file, |line| SLEEPS.iter().any(|sleep| line.contains(sleep)) && !line.contains(POLL_MARK))
        .filter(|(index, _)| *index >= first)
        .map(|(index, _)| {
            let what = format!("a test sleeps; wait for a condition, and mark its pause `{POLL_MARK} why`");
            Problem::at(file, index, what)
        })
        .collect()
}

/// Where tests begin in a file of `crates/`: at the top of a test file, at `#[cfg(test)]` elsewhere.
fn first_test_line(file: &Source) -> Option<usize> {
    if !is_rust(file) || !file.path.starts_with("crates/") {
        return None;
    }
    if file.path.contains("/tests/") || file.path.ends_with("/tests.rs") {
        return Some(0);
    }
    let lines: Vec<&str> = file.text.lines().map(str::trim_start).collect();
    // A module in a file of its own, declared among the others, begins nothing here.
    let begins = |place: &usize| !lines.get(place + 1).is_some_and(|next| next.ends_with(';'));
    (0..lines.len()).filter(|place| lines[*place].starts_with("#[cfg(test)]")).find(begins)
}

fn impure_base(file: &Source) -> Vec<Problem> {
    if !is_rust(file) || !file.path.starts_with("crates/base/src/") {
        return Vec::new();
    }
    let code = |line: &str| !line.trim_start().starts_with("//");
    hits(file, |line| code(line) && BASE_NEVER.iter().any(|word| line.contains(word)))
        .map(|(index, _)| Problem::at(file, index, "ioex-base does no I/O and reads no clock"))
        .collect()
}

fn undocumented_crate(file: &Source) -> Vec<Problem> {
    let is_root = file.path.starts_with("crates/") && file.path.ends_with("/src/lib.rs");
    if !is_root || file.text.starts_with("//!") {
        return Vec::new();
    }
    vec![Problem::new(&file.path, "begin with `//!`: what this crate is and its modules")]
}

/// Functions longer than the hint, by rustfmt's layout: the closing brace stands under the `fn`.
pub(super) fn long_functions(file: &Source) -> Vec<Problem> {
    let mut found = Vec::new();
    if !is_rust(file) {
        return found;
    }
    let lines: Vec<&str> = file.text.lines().collect();
    for (start, line) in lines.iter().enumerate().filter(|(_, line)| begins_function(line)) {
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = lines[start..].iter().position(|line| *line == format!("{indent}}}"));
        if let Some(length) = end.map(|end| end + 1).filter(|length| *length > LONG_FUNCTION_LINES) {
            found.push(Problem::at(file, start, format!("function of {length} lines")));
        }
    }
    found
}

fn begins_function(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let qualifier = |word: &&str| matches!(*word, "async" | "const" | "extern") || word.starts_with("pub");
    words.find(|word| !qualifier(word)) == Some("fn")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    #[test]
    fn a_file_may_not_be_too_long() {
        let text = "x\n".repeat(MAX_FILE_LINES);
        assert!(long_file(&file("crates/a/src/a.rs", &text)).is_empty());
        assert_eq!(long_file(&file("crates/a/src/a.rs", &(text.clone() + "x"))).len(), 1);
        assert!(long_file(&file("docs/a.md", &(text + "x"))).is_empty());
    }

    #[test]
    fn unfinished_code_is_found() {
        let text = format!("fn a() {{\n    {}\"later\")\n}}\n", UNFINISHED[0]);
        let problems = unfinished(&file("crates/a/src/a.rs", &text));
        assert_eq!(problems[0].place, "crates/a/src/a.rs:2");
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        let path = MACHINE_PATHS[0];
        assert_eq!(machine_paths(&file("docs/a.md", &format!("see {path}x"))).len(), 1);
        assert!(machine_paths(&file("docs/a.md", &format!("https://example.org{path}x"))).is_empty());
        assert!(machine_paths(&file("docs/a.md", &format!("target{path}x"))).is_empty());
    }

    #[test]
    fn ignored_tests_are_found() {
        let text = format!("#[test]\n{IGNORED}]\nfn a() {{}}");
        assert_eq!(ignored_tests(&file("crates/a/src/a.rs", &text)).len(), 1);
    }

    #[test]
    fn tests_do_not_sleep() {
        let line = format!("    std::{}x);", SLEEPS[0]);
        let in_test = format!("#[cfg(test)]\nmod tests {{\n{line}\n}}");
        assert_eq!(sleeping_tests(&file("crates/a/src/a.rs", &in_test)).len(), 1);
        assert_eq!(sleeping_tests(&file("crates/a/tests/it/main.rs", &line)).len(), 1);
        assert!(sleeping_tests(&file("crates/a/src/a.rs", &line)).is_empty());
        let declared = format!("#[cfg(test)]\nmod fixture;\n{line}");
        assert!(sleeping_tests(&file("crates/a/src/a.rs", &declared)).is_empty());
        let marked = format!("{line} {POLL_MARK} the file appears");
        assert!(sleeping_tests(&file("crates/a/tests/it/main.rs", &marked)).is_empty());
    }

    #[test]
    fn base_does_no_io() {
        let text = "use std::fs;\n// std::fs is for others\n";
        assert_eq!(impure_base(&file("crates/base/src/a.rs", text)).len(), 1);
        assert!(impure_base(&file("crates/store/src/a.rs", text)).is_empty());
    }

    #[test]
    fn a_crate_says_what_it_is() {
        assert_eq!(undocumented_crate(&file("crates/a/src/lib.rs", "mod a;")).len(), 1);
        assert!(undocumented_crate(&file("crates/a/src/lib.rs", "//! A.\nmod a;")).is_empty());
    }

    #[test]
    fn long_functions_get_a_hint() {
        let body = "        x();\n".repeat(LONG_FUNCTION_LINES);
        let text = format!("impl A {{\n    pub(crate) async fn a() {{\n{body}    }}\n}}\n");
        let hints = long_functions(&file("crates/a/src/a.rs", &text));
        assert_eq!(hints[0].place, "crates/a/src/a.rs:2");
    }
}
