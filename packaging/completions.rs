//! Writes the completions of the `stillpoint` command for bash, zsh and fish into a directory, each under the name that
//! its shell looks for: `cargo run --example completions -- DIRECTORY`. For the package.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate};
use stillpoint::command::cli::Arguments;

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).context("give the directory to write to")?;
    let directory = PathBuf::from(directory);
    for (shell, name) in
        [(Shell::Bash, "stillpoint"), (Shell::Zsh, "_stillpoint"), (Shell::Fish, "stillpoint.fish")]
    {
        let directory = directory.join(shell.to_string());
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let mut script = Vec::new();
        generate(shell, &mut for_people(), "stillpoint", &mut script);
        let path = directory.join(name);
        std::fs::write(&path, script).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// The command without what only hooks and units call.
fn for_people() -> Command {
    let whole = Arguments::command();
    let visible = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new("stillpoint")
        .version(env!("CARGO_PKG_VERSION"))
        .args(whole.get_arguments().cloned())
        .subcommands(visible.collect::<Vec<_>>())
}
