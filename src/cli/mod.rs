//! The command line. Exit codes: 0 success, 1 failure, 2 wrong arguments or bad configuration.

/// Writes a line to standard output, [`printable`](crate::printable::printable) as all lines here. Waits while a
/// pipe that does not block is full. A failed write is an error, where `println!` would panic.
macro_rules! say {
    ($($line:tt)*) => {
        crate::cli::output::write_line(std::io::stdout().lock(), &format!($($line)*))?
    };
}

/// Writes a line to standard output if that is possible: for a service, which goes on without its reader.
macro_rules! announce {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ =
            writeln!(std::io::stdout(), "{}", crate::printable::printable(&format!($($line)*)));
    }};
}

/// Writes a remark to standard error, as `complain!`, unless the command is quiet.
macro_rules! remark {
    ($($line:tt)*) => {
        if !crate::cli::verbosity::is_quiet() {
            complain!($($line)*);
        }
    };
}

/// Writes a line to standard error if that is possible, where `eprintln!` would panic. Waits as `say!` does.
macro_rules! complain {
    ($($line:tt)*) => {{
        let _ = crate::cli::output::write_line(std::io::stderr().lock(), &format!($($line)*));
    }};
}

/// `customers account ...`
mod account;

/// `customers account key ...`
mod account_key;

/// `customers dev`: private servers, demo data and the service, without any configuration.
#[cfg(feature = "embedded")]
mod dev;

/// `customers demo`: demo data.
mod demo;

/// `customers doctor`
mod doctor;

/// `customers export`: the log, to standard output.
mod export;

/// `customers history`
mod history;

/// `customers import`: customers, or a whole log, from a file.
mod import;

/// `customers keys ...`
mod keys;

/// `customers log ...`
mod log;

/// `customers completions`, `customers man`.
mod manual;

/// `customers projection ...`
mod projection;

/// `customers redis empty`: the last step of a restore.
mod redis_keys;

/// `customers serve`, `migrate`, `routes`, `health`.
mod serve;

/// What `serve` tells systemd.
mod sd_notify;

/// The examples of each `--help`.
mod examples;

/// `-q` and `-v`.
mod verbosity;

/// Connects a command to the database.
mod database;

/// Arguments that turn out to be wrong only beside the data.
mod misuse;

/// The user of the operating system that runs a command.
mod os_user;

/// Standard output: lines, and a whole log.
mod output;

/// Progress bars.
mod progress;

/// Colours, and terminals without them.
mod terminal;

/// Ctrl-C and SIGTERM.
mod signals;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::builder::Styles;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::misuse::Misuse;
use self::output::is_broken_pipe;
use self::verbosity::Verbosity;
use crate::config::{Config, ConfigError, check_environment, variables};
use crate::printable::{error_text, printable};
use crate::telemetry;

/// An event-sourced registry of customers on PostgreSQL and Redis.
#[derive(Parser)]
#[command(name = "customers", version)]
struct Arguments {
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything on this machine: private PostgreSQL and Redis, demo data, the service
    #[cfg(feature = "embedded")]
    Dev(dev::Arguments),
    /// Run the service
    Serve,
    /// Bring the database's schema up to date
    Migrate(serve::MigrateArguments),
    /// Add demo customers
    Demo(demo::Arguments),
    /// Add and change accounts
    #[command(subcommand)]
    Account(account::Command),
    /// Create, list and retire the keys that sign tokens
    #[command(subcommand)]
    Keys(keys::Command),
    /// Print every change of a customer: actor, time, old and new values, reason
    History(history::Arguments),
    /// Show the identity of the log; restart the log after a restore
    #[command(subcommand)]
    Log(log::Command),
    /// Show projections, rebuild them, compare them with the log
    #[command(subcommand)]
    Projection(projection::Command),
    /// Delete the keys of this installation in Redis, after a backup was restored
    #[command(subcommand)]
    Redis(redis_keys::Command),
    /// List the routes and the roles that they need
    Routes(serve::RoutesArguments),
    /// Print the OpenAPI document of the API
    Openapi,
    /// Create customers from a file, or restore a whole log into an empty installation
    Import(import::Arguments),
    /// Write the log to standard output
    Export(export::Arguments),
    /// Check the rights of the service in the database, and the settings that keep its data
    Doctor(doctor::Arguments),
    /// Ask the running service whether it is ready
    Health,
    /// Print the completions for a shell
    Completions(manual::CompletionsArguments),
    /// Print the manual page, or write those of all commands to a folder
    Man(manual::ManArguments),
}

/// The command line, with the examples of each command and the variables of the environment.
fn command_line() -> clap::Command {
    let examples = examples::text("").unwrap_or_default();
    let after = format!("{examples}\n{}", environment_help());
    // Without wrapping, the help of each variable stays on one line.
    examples::added_to(Arguments::command()).after_help(after).term_width(0)
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    terminal::settle_colors();
    let mut command = command_line();
    let acts = std::env::args_os().any(|argument| acts(&argument));
    if acts {
        // Colours in an error are the argument's then, and are escaped.
        command = command.styles(Styles::plain());
    }
    let arguments =
        command.try_get_matches().and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(error) => return print_usage(&error, acts),
    };
    arguments.verbosity.settle();
    let ended = run(arguments.command, arguments.verbosity);
    telemetry::traces::flush();
    telemetry::flush_logs();
    match ended {
        Ok(code) => code,
        Err(error) if error.is::<ConfigError>() || error.is::<Misuse>() => {
            complain!("customers: {error}");
            ExitCode::from(2)
        }
        // The reader has closed the pipe, for example `head`. Commands whose exit code is a verdict return it
        // nevertheless.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain!("customers: {}", error_text(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Whether a terminal acts on the argument.
fn acts(argument: &OsStr) -> bool {
    let text = argument.to_string_lossy();
    printable(&text) != text
}

/// Prints what clap says: help, or an error of usage, which repeats arguments as they are. `acts` if a terminal
/// acts on one of them.
fn print_usage(error: &clap::Error, acts: bool) -> ExitCode {
    if !acts {
        let printed = error.print();
        // Help that was asked for, and is not there.
        let is_lost = printed.is_err_and(|lost| lost.kind() != std::io::ErrorKind::BrokenPipe);
        return match u8::try_from(error.exit_code()) {
            Ok(0) if is_lost => ExitCode::FAILURE,
            code => ExitCode::from(code.unwrap_or(2)),
        };
    }
    for line in error.render().ansi().to_string().lines() {
        complain!("{line}");
    }
    ExitCode::from(2)
}

#[tokio::main]
async fn run(command: Command, verbosity: Verbosity) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "embedded")]
    if let Command::Dev(arguments) = command {
        return dev::run(arguments, verbosity).await;
    }
    // A package is built where nothing is configured.
    let is_of_package = matches!(command, Command::Completions(_) | Command::Man(_));
    if !is_of_package {
        check_environment()?;
    }
    // Another process of the service has a port of its own.
    let is_own = |name: &str| name == "CUSTOMERS_LISTEN" && matches!(command, Command::Serve);
    let lookup = |name: &str| match name {
        _ if is_of_package => None,
        name if is_own(name) => std::env::var(name).ok(),
        name => configured(name),
    };
    let mut config = Config::from_lookup(lookup)?;
    config.log = verbosity.log(config.log);
    if matches!(command, Command::Serve) {
        telemetry::start_logging_and_tracing(&config);
    } else {
        telemetry::start_logging(&config);
    }
    match command {
        // Has returned above.
        #[cfg(feature = "embedded")]
        Command::Dev(_) => {}
        Command::Serve => Box::pin(serve::serve(config)).await?,
        Command::Migrate(arguments) => serve::migrate(&config, &arguments).await?,
        Command::Demo(arguments) => demo::run(&config, arguments).await?,
        Command::Account(command) => account::run(&config, command).await?,
        Command::Keys(command) => keys::run(&config, &command).await?,
        Command::History(arguments) => history::run(&config, &arguments).await?,
        Command::Log(command) => log::run(&config, &command).await?,
        Command::Projection(command) => return projection::run(&config, command).await,
        Command::Redis(command) => redis_keys::run(&config, &command).await?,
        Command::Routes(arguments) => serve::routes(&arguments)?,
        Command::Openapi => serve::openapi()?,
        Command::Import(arguments) => return import::run(&config, arguments).await,
        Command::Export(arguments) => export::run(&config, &arguments).await?,
        Command::Doctor(arguments) => return doctor::run(&config, &arguments).await,
        Command::Health => return serve::health(&config).await,
        Command::Completions(arguments) => manual::completions(&arguments, command_line())?,
        Command::Man(arguments) => manual::man(&arguments, command_line())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Looks up a variable in the environment, then among the addresses of a running `customers dev`.
fn configured(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).or_else(|| {
        // A set `NAME_FILE` has precedence over those addresses.
        if std::env::var_os(format!("{name}_FILE")).is_some() {
            return None;
        }
        let env = std::fs::read_to_string(Path::new(database::DEV_FOLDER).join("env")).ok()?;
        env.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key == name).then(|| value.to_owned())
        })
    })
}

fn environment_help() -> String {
    use std::fmt::Write as _;
    let mut help = String::from("Environment:\n");
    for variable in variables() {
        let default = variable.default.map(|text| format!(" [default: {text}]"));
        let default = default.unwrap_or_default();
        let file = if variable.is_secret { " (or in a file: NAME_FILE)" } else { "" };
        let _ = writeln!(help, "  {}\n          {}{file}{default}", variable.name, variable.help);
    }
    help
}
