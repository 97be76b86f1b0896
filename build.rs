//! `sqlx::migrate!` does not notice new files by itself. The sources that decide what a read table contains
//! get a fingerprint: a rebuild that was interrupted is resumed by the same code only.

use std::fs;
use std::path::{Path, PathBuf};

/// What turns the log into rows.
const SOURCES: [&str; 3] = ["src/projections", "src/events", "src/postgres"];

fn main() {
    println!("cargo:rerun-if-changed=migrations");
    let mut files = vec![];
    for folder in SOURCES {
        println!("cargo:rerun-if-changed={folder}");
        collect(Path::new(folder), &mut files);
    }
    files.sort();
    // FNV-1a: the same for the same sources, with every compiler.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for file in files {
        let text = fs::read(&file).expect("a listed file can be read");
        let path = file.to_string_lossy();
        for byte in path.bytes().chain([0]).chain(text).chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    println!("cargo:rustc-env=PROJECTION_CODE_HASH={hash:016x}");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is part of the sources") {
        let path = entry.expect("a folder can be listed").path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
