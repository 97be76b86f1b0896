//! `customers completions` and `customers man`: made from the command line itself, without any configuration.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use super::Shell;
use crate::nginx::program;

/// The names of the commands and of those below them, from `--help`, as the names of their pages.
async fn pages(shell: &Shell) -> BTreeSet<String> {
    let mut pages = BTreeSet::from(["customers.1".to_owned()]);
    let mut waiting = vec![String::new()];
    while let Some(words) = waiting.pop() {
        let help = shell.run(&format!("{words} --help")).await.stdout;
        let Some((_, commands)) = help.split_once("Commands:\n") else { continue };
        let names = commands.lines().take_while(|line| line.starts_with("  "));
        for name in names.filter_map(|line| line.split_whitespace().next()) {
            if name != "help" {
                let words = format!("{words} {name}");
                pages.insert(format!("customers{}.1", words.replace(' ', "-")));
                waiting.push(words);
            }
        }
    }
    pages
}

#[tokio::test]
async fn every_command_has_a_manual_page() {
    let shell = Shell::bare();
    let expected = pages(&shell).await;
    assert!(expected.len() > 20, "{expected:?}");
    let ended = shell.run("man share/man1").await;
    assert_eq!((ended.code, ended.stdout.as_str()), (0, ""), "{ended:?}");
    let folder = shell.folder.join("share/man1");
    let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let written: BTreeSet<String> = names.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(written, expected);
    let page = std::fs::read_to_string(folder.join("customers-projection-rebuild.1")).unwrap();
    assert!(page.contains("customers projection rebuild") && page.contains("restart"), "{page}");
    // Without a folder the page of the program is printed.
    let printed = shell.run("man").await;
    let program = std::fs::read_to_string(folder.join("customers.1")).unwrap();
    assert_eq!((printed.code, printed.stdout), (0, program));
}

#[tokio::test]
async fn the_completions_of_each_shell_know_the_commands_and_their_options() {
    // A broken variable does not matter.
    let shell = Shell::bare().with("CUSTOMERS_LISTEN", "nowhere");
    for name in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ended = shell.run(&format!("completions {name}")).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{name}");
        for word in ["projection", "rebuild", "restart", "completions", "verbose"] {
            assert!(ended.stdout.contains(word), "{name}: {word}");
        }
        // The shells that are here can read theirs.
        let Some(reader) = program("bash").filter(|_| name == "bash") else { continue };
        let file = shell.folder.join(name);
        std::fs::write(&file, &ended.stdout).unwrap();
        let script = format!(
            ". {}; COMP_WORDS=(customers projection re); COMP_CWORD=2; \
             _customers customers re projection; echo ${{COMPREPLY[@]}}",
            file.display()
        );
        let output = Command::new(reader).args(["-c", &script]).stdin(Stdio::null()).output();
        let output = output.unwrap();
        let replies = String::from_utf8(output.stdout).unwrap();
        assert_eq!(replies.trim(), "rebuild retry", "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(shell.run("completions tcsh").await.code, 2);
}
