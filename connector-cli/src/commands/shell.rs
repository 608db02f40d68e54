//! `kvconn completions` and `man`: files for a shell and for `man`.

use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;
use connectors::{Error, ErrorKind};

use crate::args::{Cli, CompletionsArgs, ManArgs};
use crate::exit::{Answer, Failure};
use crate::output::{Out, count, mode, print_note, users};

pub(crate) fn completions(args: &CompletionsArgs, out: &mut Out) -> Result<Answer, Failure> {
    // It panics if it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "kvconn", &mut script);
    out.raw(&script)?;
    Ok(Answer::Yes)
}

pub(crate) fn man(args: &ManArgs, out: &mut Out) -> Result<Answer, Failure> {
    let Some(dir) = &args.dir else {
        out.raw(&page(command())?)?;
        return Ok(Answer::Yes);
    };
    let text = dir.to_string_lossy();
    if text.contains("://") {
        let why = format!("`{}` is a URL, and `kvconn man` writes into a folder", users(&text));
        return Err(Error::new(ErrorKind::InvalidInput, why).with_hint("write the path of a folder").into());
    }
    std::fs::create_dir_all(dir).map_err(|e| failed(e, "make the directory", dir))?;
    let mut written = vec![];
    for (name, command) in pages(command()) {
        let path = dir.join(format!("{name}.1"));
        std::fs::write(&path, page(command)?).map_err(|e| failed(e, "write", &path))?;
        written.push(path.to_string_lossy().into_owned());
    }
    if mode::is_json() {
        out.json(&serde_json::json!({ "pages": written }))?;
    } else {
        print_note(format_args!("wrote {} into `{}`", count(written.len(), "page"), users(&dir.to_string_lossy())));
    }
    Ok(Answer::Yes)
}

fn failed(e: std::io::Error, action: &str, path: &Path) -> Failure {
    Error::io(e, format_args!("{action} `{}`", users(&path.to_string_lossy()))).into()
}

/// The command, with the arguments that all subcommands have.
fn command() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// The command and its subcommands. A built subcommand has a name for its page: `kvconn-ls`.
fn pages(command: clap::Command) -> Vec<(String, clap::Command)> {
    let name = |command: &clap::Command| command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let own = command.get_subcommands().filter(|sub| sub.get_name() != "help");
    let subs: Vec<_> = own.map(|sub| (name(sub), sub.clone())).collect();
    [(name(&command), command)].into_iter().chain(subs).collect()
}

fn page(command: clap::Command) -> Result<Vec<u8>, Failure> {
    let source = concat!("kvconn ", env!("CARGO_PKG_VERSION"));
    let mut page = Vec::new();
    Man::new(command).source(source).manual("kvconn").render(&mut page)?;
    // The examples, the exit codes and the like. `EXTRA` is not a name that readers of manual pages know.
    let page = String::from_utf8_lossy(&page).replace("\n.SH EXTRA\n", "\n.SH NOTES\n");
    Ok(page.into_bytes())
}
