//! `kvconn completions`, `man` and `version`.

use std::process::Command;

use tempfile::TempDir;

use super::{entries, run};

/// Every subcommand but clap's `help`.
fn commands() -> Vec<String> {
    let help = run(&["--help"]).exits(0);
    let (_, list) = help.text().split_once("Commands:\n").expect("the help lists the commands");
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty()));
    let names: Vec<String> = names.filter(|name| *name != "help").map(str::to_owned).collect();
    assert!(names.len() > 15, "{names:?}");
    names
}

#[test]
fn bash_completes_commands_options_and_values() {
    let script = run(&["completions", "bash"]).exits(0);
    for (words, wanted) in [
        (&["kvconn", "conn"][..], "connectors"),
        (&["kvconn", "s"], "stat"),
        (&["kvconn", "ls", "--lim"], "--limit"),
        (&["kvconn", "rm", "--dry"], "--dry-run"),
        (&["kvconn", "completions", "z"], "zsh"),
        (&["kvconn", "ls", "--color", "al"], "always"),
    ] {
        let before = if words.len() > 1 { words[words.len() - 2] } else { "" };
        let last = words[words.len() - 1];
        let code = format!(
            "{}\nCOMP_WORDS=({})\nCOMP_CWORD={}\n_kvconn kvconn '{last}' '{before}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.text(),
            words.join(" "),
            words.len() - 1
        );
        let shown = Command::new("bash").args(["--norc", "-c", &code]).output().expect("bash starts");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned() + &String::from_utf8_lossy(&shown.stderr);
        assert!(shown.lines().any(|line| line == wanted), "{words:?}: {shown}");
    }
}

#[test]
fn each_shell_has_completions_of_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).exits(0);
        for command in commands() {
            assert!(script.text().contains(&command), "{shell}: {command}");
        }
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = TempDir::new().expect("a directory can be made");
    let pages = dir.path().join("man1");
    run(&["man", pages.to_str().expect("it is text")]).exits(0);
    let mut expected: Vec<String> = commands().iter().map(|name| format!("kvconn-{name}.1")).collect();
    expected.push("kvconn.1".into());
    expected.sort();
    let mut found = entries(&pages);
    found.sort();
    assert_eq!(found, expected);
    let own = run(&["man"]).exits(0);
    assert_eq!(own.out, std::fs::read(pages.join("kvconn.1")).expect("the page is there"));
    assert!(own.text().contains(".TH kvconn 1") && own.text().contains("Exit codes"), "{}", own.text());
    for page in found {
        let text = std::fs::read_to_string(pages.join(&page)).expect("the page is there");
        let name = page.strip_suffix(".1").expect("its section");
        assert!(text.contains(&format!(".TH {name} 1")) && text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
}

#[test]
fn the_version_says_how_the_binary_was_built() {
    let short = run(&["-V"]).exits(0);
    let number = env!("CARGO_PKG_VERSION");
    assert!(short.text().starts_with(&format!("kvconn {number}")) && short.text().lines().count() == 1, "{short:?}");
    let long = run(&["--version"]).exits(0);
    assert!(long.text().starts_with(short.text().trim_end()), "{long:?}");
    for part in
        ["\ntarget      ", "\nrustc       1.", "\nfeatures    ", "fs", "\nconnectors  ", "kvconn.fs/FSConnector"]
    {
        assert!(long.text().contains(part), "{part}: {}", long.text());
    }
    assert_eq!(run(&["version"]).exits(0).text(), long.text());
    let json = run(&["version", "--json"]).exits(0).json();
    assert_eq!(json["version"], number);
    let commit = json["commit"].as_str().unwrap_or_default();
    assert!(short.text().trim_end().ends_with(&format!("({commit})")) || commit.is_empty(), "{json} {short:?}");
    assert!(json["connectors"].as_array().is_some_and(|all| all.contains(&"kvconn.fs/FSConnector".into())), "{json}");
}
