//! The command line: which commands and flags there are, and the requests they turn into.
//!
//! Flags for the library's options are made from its option table. Secrets are taken from the environment
//! only: a command line can be read by every user of the machine.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use replicate::config::parse_duration;
use replicate::seal::IdentityKind;
use replicate::{Check, Config, ConfigKey, Error, ErrorKind, Level, Options, RestoreOptions, Target, Timestamp, Txid};

use crate::exit::{Failure, Table};
use crate::{output, spelling, time};

/// What was asked for.
pub(crate) enum Request {
    Replicate(Replicate),
    Restore(Restore),
    Ltx(Ltx),
    Keygen(Keygen),
    Rewrap(Rewrap),
    Version { json: bool },
}

/// `replicate replicate`.
pub(crate) struct Replicate {
    pub(crate) database: PathBuf,
    pub(crate) config: Config,
    pub(crate) stop_timeout: Duration,
    pub(crate) verbose: bool,
    pub(crate) json: bool,
}

/// `replicate restore`.
pub(crate) struct Restore {
    pub(crate) config: Config,
    pub(crate) output: PathBuf,
    pub(crate) target: Target,
    pub(crate) min_txid: Option<Txid>,
    pub(crate) check: Check,
    pub(crate) overwrite: bool,
    pub(crate) parallelism: Option<usize>,
    pub(crate) if_db_not_exists: bool,
    pub(crate) if_replica_exists: bool,
    pub(crate) json: bool,
}

/// `replicate ltx`.
pub(crate) struct Ltx {
    pub(crate) config: Config,
    /// `None`: all.
    pub(crate) level: Option<Level>,
    pub(crate) json: bool,
}

/// `replicate keygen`.
pub(crate) struct Keygen {
    pub(crate) kind: IdentityKind,
    /// `None`: to the output.
    pub(crate) output: Option<PathBuf>,
    /// Print the public keys of this file of private ones instead.
    pub(crate) public_of: Option<PathBuf>,
    pub(crate) json: bool,
}

/// `replicate rewrap`.
pub(crate) struct Rewrap {
    pub(crate) config: Config,
    pub(crate) json: bool,
}

/// Options that say where a replica is.
const PLACE: [ConfigKey; 7] = [
    ConfigKey::Endpoint,
    ConfigKey::Bucket,
    ConfigKey::Prefix,
    ConfigKey::Region,
    ConfigKey::AccessKey,
    ConfigKey::SecretKey,
    ConfigKey::SessionToken,
];

/// Options that say how to read it; the others only matter to who writes it.
const OPENING: [ConfigKey; 4] =
    [ConfigKey::AgeIdentity, ConfigKey::AgeIdentityFile, ConfigKey::AgeAllowPlaintext, ConfigKey::AuthKey];

fn is_for_reading(key: ConfigKey) -> bool {
    PLACE.contains(&key) || OPENING.contains(&key)
}

/// The whole command line.
pub(crate) fn command() -> Command {
    Command::new("replicate")
        .about("Continuous backup of SQLite databases to object storage, compatible with Litestream 0.5")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .after_help(format!(
            "{Table}\n\nWith --json, results are JSON on the output and errors are a JSON object on the error stream."
        ))
        .subcommands([
            replicate_command(),
            restore_command(),
            ltx_command(),
            keygen_command(),
            rewrap_command(),
            version_command(),
        ])
}

fn replicate_command() -> Command {
    Command::new("replicate")
        .about("Replicate a database until SIGINT or SIGTERM")
        .long_about(
            "Replicates a database until SIGINT or SIGTERM, then ships what is left, within --stop-timeout. \
             A second signal ends at once. Prints a line for each start, change of state and stop.",
        )
        .arg(Arg::new("db").value_name("DB").required(true).value_parser(value_parser!(PathBuf)).help("The database"))
        .arg(url())
        .args(options(|_| true))
        .arg(
            Arg::new("stop-timeout")
                .long("stop-timeout")
                .value_name("TIME")
                .default_value("30s")
                .value_parser(parse_duration)
                .help("How long the last upload may take after a signal"),
        )
        .arg(switch("restore-if-db-not-exists", "The same as --restore missing, which is the default").hide(true))
        .arg(switch("verbose", "Also print every capture, upload and checkpoint").short('v'))
        .arg(json())
        .after_help(Table.to_string())
}

fn restore_command() -> Command {
    Command::new("restore")
        .about("Restore a database from a replica")
        .arg(url())
        .arg(
            Arg::new("output")
                .short('o')
                .long("output")
                .value_name("OUT")
                .value_parser(value_parser!(PathBuf))
                .help("The file to write; default: the last part of the replica's path, in the current folder"),
        )
        .arg(
            Arg::new("txid")
                .long("txid")
                .value_name("TXID")
                .value_parser(parse_txid)
                .conflicts_with("timestamp")
                .help("Restore the state after this transaction id (16 hex digits, as `ltx` shows them)"),
        )
        .arg(
            Arg::new("timestamp")
                .long("timestamp")
                .value_name("TIME")
                .value_parser(time::parse)
                .help("Restore the last state at or before this time (RFC 3339)"),
        )
        .arg(
            Arg::new("min-txid").long("min-txid").value_name("TXID").value_parser(parse_txid).help(
                "Fail if the state has not reached this transaction id, noted elsewhere: newer files were removed",
            ),
        )
        .arg(
            Arg::new("integrity-check")
                .long("integrity-check")
                .value_name("CHECK")
                .value_parser(["none", "quick", "full"])
                .default_value("quick")
                .help("Check the result before it gets its name"),
        )
        .arg(switch("overwrite", "Replace an existing file, after the restore has succeeded").visible_alias("force"))
        .arg(switch("if-db-not-exists", "Do nothing, successfully, if the output exists"))
        .arg(switch("if-replica-exists", "Do nothing, successfully, if there is no backup").conflicts_with("min-txid"))
        .arg(
            Arg::new("parallelism")
                .long("parallelism")
                .value_name("N")
                .value_parser(value_parser!(usize))
                .help(format!("Requests at the same time, 1 to 64 [default: {}]", RestoreOptions::new("").parallelism)),
        )
        .args(options(is_for_reading))
        .arg(json())
        .after_help(Table.to_string())
}

fn ltx_command() -> Command {
    Command::new("ltx")
        .about("List the files of a replica")
        .arg(url())
        .arg(
            Arg::new("level")
                .long("level")
                .value_name("LEVEL")
                .value_parser(parse_level)
                .default_value("0")
                .help("The level to list: 0 to 9, or all"),
        )
        .args(options(is_for_reading))
        .arg(json())
        .after_help(Table.to_string())
}

fn keygen_command() -> Command {
    Command::new("keygen")
        .about("Make a key pair to seal a replica with")
        .long_about(
            "Makes a key pair to seal a replica with. The private key restores; keep it where the database's host is \
             not. The public key (REPLICATE_AGE_RECIPIENT) is all that replicating needs.",
        )
        .arg(
            Arg::new("kind")
                .long("kind")
                .value_name("KIND")
                .value_parser(IdentityKind::ALL.map(IdentityKind::name))
                .default_value(IdentityKind::default().name())
                .help("pq: safe from quantum computers; x25519: for every age program; xw: pq as one fork spells it"),
        )
        .arg(
            Arg::new("output")
                .short('o')
                .long("output")
                .value_name("OUT")
                .value_parser(value_parser!(PathBuf))
                .help("The file to write the private key to (mode 0600, must not exist); default: the output"),
        )
        .arg(
            Arg::new("public-of")
                .short('y')
                .long("public-of")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .conflicts_with_all(["kind", "output"])
                .help("Print the public keys of a file of private keys instead"),
        )
        .arg(json())
        .after_help(Table.to_string())
}

fn rewrap_command() -> Command {
    Command::new("rewrap")
        .about("Give the objects of a replica new headers for other keys")
        .long_about(
            "Gives every object of a replica a new header for the recipients given, without touching its content. The \
             identity must open what is there. Set the new recipients where the database is replicated first.",
        )
        .arg(url())
        .args(options(|key| {
            is_for_reading(key)
                || matches!(key, ConfigKey::AgeRecipient | ConfigKey::AgeRecipientsFile | ConfigKey::AgeAllowForeign)
        }))
        .arg(json())
        .after_help(Table.to_string())
}

fn version_command() -> Command {
    Command::new("version").about("Print the version").arg(json())
}

fn url() -> Arg {
    Arg::new("url").value_name("URL").help(
        "The replica: s3://bucket/path or file:///folder; default: what the environment names (REPLICATE_URL, or \
         REPLICATE_S3_ENDPOINT with _BUCKET and _PATH)",
    )
}

fn json() -> Arg {
    switch("json", "Write results and errors as JSON")
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// A flag for each option of the table that belongs to the command. Flags of secrets exist to be refused
/// with an explanation.
fn options(belongs: impl Fn(ConfigKey) -> bool) -> Vec<Arg> {
    let keys = ConfigKey::ALL.iter().copied().filter(|key| *key != ConfigKey::Url && belongs(*key));
    keys.map(|key| {
        let default = if key.default().is_empty() { String::new() } else { format!(" [default: {}]", key.default()) };
        Arg::new(key.name())
            // Flags live as long as the process; clap wants them to.
            .long(&*key.name().replace('_', "-").leak())
            .value_name("VALUE")
            .hide(key.is_secret())
            .visible_aliases((key == ConfigKey::AgeIdentityFile).then_some("identity"))
            .help(format!("{}{default} [env: {}]", key.doc().replace('`', ""), key.env()))
    })
    .collect()
}

/// Understands the command line.
pub(crate) fn parse(typed: Vec<OsString>) -> Result<Request, Failure> {
    let command = command();
    let typed = spelling::normalise(&command, typed);
    let matches = command.try_get_matches_from(typed).map_err(Failure::Usage)?;
    let (name, matches) = matches.subcommand().ok_or_else(|| Error::internal("no command"))?;
    let json = matches.get_flag("json");
    Ok(match name {
        "replicate" => Request::Replicate(Replicate {
            database: required(matches, "db")?,
            config: config(matches)?,
            stop_timeout: required(matches, "stop-timeout")?,
            verbose: matches.get_flag("verbose"),
            json,
        }),
        "restore" => Request::Restore(restore(matches, json)?),
        "ltx" => Request::Ltx(Ltx { config: config(matches)?, level: required(matches, "level")?, json }),
        "keygen" => Request::Keygen(Keygen {
            kind: required::<String>(matches, "kind")?.parse()?,
            output: matches.get_one::<PathBuf>("output").cloned(),
            public_of: matches.get_one::<PathBuf>("public-of").cloned(),
            json,
        }),
        "rewrap" => Request::Rewrap(Rewrap { config: config(matches)?, json }),
        _ => Request::Version { json },
    })
}

fn restore(matches: &ArgMatches, json: bool) -> Result<Restore, Error> {
    let config = config(matches)?;
    let output = match matches.get_one::<PathBuf>("output") {
        Some(output) => output.clone(),
        None => default_output(&config)?,
    };
    let target = match (matches.get_one::<Txid>("txid"), matches.get_one::<Timestamp>("timestamp")) {
        (Some(txid), _) => Target::Txid(*txid),
        (None, Some(time)) => Target::Time(*time),
        (None, None) => Target::Latest,
    };
    let check = match matches.get_one::<String>("integrity-check").map(String::as_str) {
        Some("none") => Check::None,
        Some("full") => Check::Full,
        _ => Check::Quick,
    };
    Ok(Restore {
        config,
        output,
        target,
        min_txid: matches.get_one::<Txid>("min-txid").copied(),
        check,
        overwrite: matches.get_flag("overwrite"),
        parallelism: matches.get_one("parallelism").copied(),
        if_db_not_exists: matches.get_flag("if-db-not-exists"),
        if_replica_exists: matches.get_flag("if-replica-exists"),
        json,
    })
}

fn required<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> Result<T, Error> {
    matches.get_one::<T>(name).cloned().ok_or_else(|| Error::internal(format!("argument {name} has no value")))
}

/// The environment's options, then those of the command line; a URL on the command line takes the place of
/// everything in the environment that names a replica.
fn config(matches: &ArgMatches) -> Result<Config, Error> {
    let (mut options, unknown) = Options::from_env();
    for name in unknown {
        output::warning(matches.get_flag("json"), &format!("unknown variable {name}, ignored"));
    }
    if let Some(url) = matches.get_one::<String>("url") {
        if !url.contains("://") {
            return Err(Error::new(ErrorKind::Config, format!("not a replica URL: {url:?}"))
                .with_hint("s3://bucket/path or file:///folder"));
        }
        options.set_key(ConfigKey::Url, url);
        let is_s3 = url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("s3://"));
        let unused: &[ConfigKey] = if is_s3 { &[ConfigKey::Bucket, ConfigKey::Prefix] } else { &PLACE };
        unused.iter().for_each(|key| options.set_key(*key, ""));
    }
    for key in ConfigKey::ALL {
        let typed = matches.try_get_one::<String>(key.name()).ok().flatten();
        match typed {
            Some(_) if key.is_secret() => {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("{} is not taken from the command line", key.name()),
                )
                .with_hint(format!("other users could read it there; set {}", key.env())));
            }
            Some(value) if *key != ConfigKey::Url => options.set_key(*key, value),
            _ => {}
        }
    }
    let config = options.check()?;
    if config.location.is_none() {
        return Err(Error::new(ErrorKind::Config, "no replica is named")
            .with_hint("give its URL, or set REPLICATE_URL or REPLICATE_S3_ENDPOINT"));
    }
    Ok(config)
}

/// The last part of the replica's path.
fn default_output(config: &Config) -> Result<PathBuf, Error> {
    use replicate::config::StoreLocation;
    let name = match &config.location {
        Some(StoreLocation::File(folder)) => folder.file_name().map(PathBuf::from),
        Some(StoreLocation::S3(s3)) => s3.prefix.rsplit('/').next().filter(|p| !p.is_empty()).map(PathBuf::from),
        _ => None,
    };
    name.ok_or_else(|| {
        Error::new(ErrorKind::Config, "the replica has no path to name the output after").with_hint("give -o OUT")
    })
}

fn parse_txid(text: &str) -> Result<Txid, String> {
    let txid = text.to_ascii_lowercase().parse::<Txid>().map_err(|_| "expected 16 hex digits".to_owned())?;
    if txid.is_zero() { Err("transaction ids begin at 1".to_owned()) } else { Ok(txid) }
}

fn parse_level(text: &str) -> Result<Option<Level>, String> {
    if text == "all" {
        return Ok(None);
    }
    let level = text.parse().ok().and_then(Level::new);
    level.map(Some).ok_or_else(|| "expected 0 to 9, or all".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_option_has_a_flag_and_secrets_are_hidden() {
        let command = replicate_command();
        for key in ConfigKey::ALL.iter().filter(|key| **key != ConfigKey::Url) {
            let arg = command.get_arguments().find(|arg| arg.get_id() == key.name()).expect("a flag");
            assert_eq!(arg.get_long(), Some(key.name().replace('_', "-").as_str()));
            assert_eq!(arg.is_hide_set(), key.is_secret());
        }
    }
}
