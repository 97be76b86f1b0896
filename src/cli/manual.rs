//! `customers completions` and `customers man`: what a package of the program installs beside it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap_complete::Shell;
use clap_mangen::Man;

use super::output::write_text;

#[derive(clap::Args)]
pub struct CompletionsArguments {
    /// The shell
    shell: Shell,
}

#[derive(clap::Args)]
pub struct ManArguments {
    /// The folder for one page per command, as `man1`; without it the page of the program is printed
    folder: Option<PathBuf>,
}

/// `customers completions`
pub fn completions(
    arguments: &CompletionsArguments,
    mut command: clap::Command,
) -> anyhow::Result<()> {
    let mut text = vec![];
    clap_complete::generate(arguments.shell, &mut command, "customers", &mut text);
    Ok(write_text(std::io::stdout(), &text)?)
}

/// `customers man`
pub fn man(arguments: &ManArguments, mut command: clap::Command) -> anyhow::Result<()> {
    // Gives the commands below it their full names.
    command.build();
    let Some(folder) = &arguments.folder else {
        return Ok(write_text(std::io::stdout(), &page(command)?)?);
    };
    std::fs::create_dir_all(folder)
        .and_then(|()| write_pages(&command, folder))
        .with_context(|| format!("cannot write to {}", folder.display()))
}

/// Writes the page of a command and those of the commands below it: `customers-account-add.1`.
fn write_pages(command: &clap::Command, folder: &Path) -> std::io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let mut file = std::fs::File::create(folder.join(format!("{name}.1")))?;
    file.write_all(&page(command.clone())?)?;
    let mut below = command.get_subcommands().filter(|below| below.get_name() != "help");
    below.try_for_each(|below| write_pages(below, folder))
}

fn page(command: clap::Command) -> std::io::Result<Vec<u8>> {
    let mut text = vec![];
    Man::new(command).render(&mut text)?;
    Ok(text)
}
