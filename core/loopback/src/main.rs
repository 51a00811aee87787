//! The loopback S3 server as a program, for the demo and for tests in other languages.
//!
//! Prints its endpoint as the first line when it answers, and runs until it is killed. With `--end-with-stdin`
//! it ends with its standard input, so that it does not outlive whoever started it through a pipe.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use replicate_loopback::LoopbackS3;

/// The keys when none are given.
const ACCESS_KEY: &str = "replicate-test";
const SECRET_KEY: &str = "replicate-test-secret";

const USAGE: &str = "usage: replicate-loopback-s3 --dir DIR [--port PORT] [--access-key KEY] [--secret-key KEY] \
                     [--bucket NAME]... [--end-with-stdin]";

#[derive(Default)]
struct Arguments {
    dir: PathBuf,
    port: u16,
    access_key: Option<String>,
    secret_key: Option<String>,
    buckets: Vec<String>,
    end_with_stdin: bool,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments::default();
    while let Some(argument) = arguments.next() {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        if name == "--end-with-stdin" {
            parsed.end_with_stdin = true;
            continue;
        }
        let value = inline.or_else(|| arguments.next()).ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--dir" => parsed.dir = value.into(),
            "--port" => parsed.port = value.parse().map_err(|_| format!("not a port: {value}"))?,
            "--access-key" => parsed.access_key = Some(value),
            "--secret-key" => parsed.secret_key = Some(value),
            "--bucket" => parsed.buckets.push(value),
            _ => return Err(format!("unknown argument {name}")),
        }
    }
    if parsed.dir.as_os_str().is_empty() { Err("--dir is missing".to_owned()) } else { Ok(parsed) }
}

fn serve(arguments: &Arguments) -> std::io::Result<()> {
    let access_key = arguments.access_key.as_deref().unwrap_or(ACCESS_KEY);
    let secret_key = arguments.secret_key.as_deref().unwrap_or(SECRET_KEY);
    let server = LoopbackS3::start_at(arguments.port, &arguments.dir, access_key, secret_key)?;
    for bucket in &arguments.buckets {
        server.create_bucket(bucket)?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", server.endpoint())?;
    out.flush()?;
    drop(out);
    if arguments.end_with_stdin {
        return std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).map(drop);
    }
    loop {
        std::thread::park();
    }
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("replicate-loopback-s3: {error}");
            ExitCode::FAILURE
        }
    }
}
