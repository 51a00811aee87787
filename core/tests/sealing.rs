//! Sealing from outside: what is stored, what is refused, and that nothing is sent when a key is wrong.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

use common::{Lab, Random, SOON, assert_same_pages, churn};
use replicate::seal::{GeneratedIdentity, IdentityKind, generate_identity};
use replicate::{
    Cancel, ConfigKey, Error, ErrorKind, Event, Handle, Options, RestoreOptions, State, Target, Txid, restore,
};
use rusqlite::Connection;

fn make(kind: IdentityKind) -> GeneratedIdentity {
    generate_identity(kind).unwrap()
}

fn sealed_to(lab: &Lab, keys: &GeneratedIdentity) -> Options {
    lab.options().with(ConfigKey::AgeRecipient, &*keys.recipient)
}

fn restore_with(lab: &Lab, options: Options) -> Result<Connection, Error> {
    let output = lab.folder.path().join("back.db");
    let config = options.with(ConfigKey::Url, format!("file://{}", lab.replica.display())).check()?;
    let options = RestoreOptions::new(&output).overwrite(true);
    restore(&options, &config, &Cancel::new(), &mut |_| ())?;
    Ok(Connection::open(output).unwrap())
}

fn opened_by(keys: &GeneratedIdentity) -> Options {
    Options::new().with(ConfigKey::AgeIdentity, keys.identity.as_str())
}

fn objects(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { objects(&path) } else { vec![path] }).collect()
}

fn is_sealed(path: &Path) -> bool {
    std::fs::read(path).unwrap().starts_with(b"age-encryption.org/v1\n")
}

#[test]
fn a_host_that_can_only_write_runs_and_restarts_and_only_a_restore_needs_the_private_key() {
    for kind in IdentityKind::ALL {
        let (lab, keys) = (Lab::new(), make(kind));
        let app = lab.create(4096);
        let mut random = Random(11);
        for round in 0..3 {
            let handle = Handle::start(&lab.database, sealed_to(&lab, &keys).check().unwrap()).unwrap();
            for _ in 0..5 {
                churn(&app, &mut random);
                let status = handle.sync(SOON).unwrap();
                assert!(status.in_sync);
                assert!(matches!(status.sealed_to.as_slice(), [one] if one.starts_with(kind.name())), "{status:?}");
            }
            assert!(handle.stop(SOON).unwrap().flushed);
            churn(&app, &mut random);
            if round == 1 {
                // The state folder is lost: an image follows.
                std::fs::remove_dir_all(lab.folder.path().join(".app.db-replicate")).unwrap();
            }
        }
        let handle = Handle::start(&lab.database, sealed_to(&lab, &keys).check().unwrap()).unwrap();
        handle.sync(SOON).unwrap();
        handle.stop(SOON).unwrap();
        assert!(objects(&lab.replica).iter().all(|path| is_sealed(path)));
        assert!(lab.count("0") > 10 && lab.count("9") == 1, "{} {}", lab.count("0"), lab.count("9"));
        assert_same_pages(&app, &restore_with(&lab, opened_by(&keys)).unwrap());

        let error = restore_with(&lab, Options::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Keys);
        assert!(error.to_string().contains("REPLICATE_AGE_IDENTITY"), "{error}");
        let error = restore_with(&lab, opened_by(&make(kind))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Keys, "{error}");
    }
}

#[test]
fn several_recipients_each_restore_alone() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let (one, two, third) = (make(IdentityKind::PostQuantum), make(IdentityKind::XWing), make(IdentityKind::XWing));
    let file = lab.folder.path().join("recipients.txt");
    std::fs::write(&file, format!("# the spare key\n{}\n\n{}\r\n", two.recipient, third.recipient)).unwrap();
    let options = sealed_to(&lab, &one).with(ConfigKey::AgeRecipientsFile, file.to_str().unwrap());
    let handle = Handle::start(&lab.database, options.check().unwrap()).unwrap();
    app.execute("INSERT INTO t VALUES (1, x'00', 'a')", []).unwrap();
    handle.sync(SOON).unwrap();
    handle.stop(SOON).unwrap();
    for keys in [&one, &two, &third] {
        let identity = lab.folder.path().join("identity.txt");
        std::fs::write(&identity, format!("# {}\n{}\n", keys.recipient, *keys.identity)).unwrap();
        let options = Options::new().with(ConfigKey::AgeIdentityFile, identity.to_str().unwrap());
        assert_same_pages(&app, &restore_with(&lab, options).unwrap());
    }
}

/// Starts with these options, which must fail, and checks that nothing was stored and nothing was told.
fn refused(lab: &Lab, options: &Options, secrets: &[&str]) -> Error {
    let error = options.check().and_then(|config| Handle::start(&lab.database, config)).expect_err("refused");
    assert_eq!(objects(&lab.replica), Vec::<PathBuf>::new());
    let shown = format!("{error} {error:?} {options:?}");
    for secret in secrets {
        assert!(!shown.contains(secret), "{shown}");
    }
    error
}

#[test]
fn rule_1_a_wrong_empty_or_mixed_recipient_starts_nothing() {
    let lab = Lab::new();
    let _app = lab.create(4096);
    let (classic, hybrid) = (make(IdentityKind::X25519), make(IdentityKind::PostQuantum));
    let mixed = format!("{}\n{}", classic.recipient, hybrid.recipient);
    let mistyped = classic.recipient.replacen('q', "p", 1).replacen("age1p", "age1z", 1);
    for wrong in ["age1xyz", " ", "\n", "# only a comment", &mixed, &mistyped, &classic.identity, "age1,age1"] {
        let wrong: &str = wrong;
        let error = refused(&lab, &lab.options().with(ConfigKey::AgeRecipient, wrong), &[&classic.identity[20..40]]);
        assert_eq!(error.kind(), ErrorKind::Config, "{wrong:?}");
        assert!(
            error.to_string().contains("REPLICATE_AGE_RECIPIENT") || error.to_string().contains("mixed"),
            "{error}"
        );
    }
    let missing = lab.options().with(ConfigKey::AgeRecipientsFile, "/nowhere/at/all");
    assert!(refused(&lab, &missing, &[]).to_string().contains("/nowhere/at/all"));
    // An empty text is no key, as everywhere; whoever depends on sealing can demand it.
    assert!(lab.options().with(ConfigKey::AgeRecipient, "").check().is_ok());
    let demanded = lab.options().with(ConfigKey::AgeRecipient, "").with(ConfigKey::AgeRequired, "true");
    assert!(refused(&lab, &demanded, &[]).to_string().contains("age_required"));
    // Line ends around the whole value, as secret stores add them, are no part of it.
    let padded = lab.options().with(ConfigKey::AgeRecipient, format!("{}\n", classic.recipient));
    assert!(padded.check().is_ok());
}

#[test]
fn rule_2_a_wrong_identity_starts_and_restores_nothing() {
    let lab = Lab::new();
    let _app = lab.create(4096);
    let keys = make(IdentityKind::PostQuantum);
    let mistyped = keys.identity.replacen("-1Q", "-1P", 1).replacen("-1Z", "-1X", 1);
    let cut = &keys.identity[..60];
    for wrong in [mistyped.as_str(), cut, "AGE-SECRET-KEY-1HUSHHUSH", &keys.recipient, " "] {
        if wrong == keys.identity.as_str() {
            continue;
        }
        let options = lab.options().with(ConfigKey::AgeIdentity, wrong);
        let error = refused(&lab, &options, &[&keys.identity[20..40], "HUSHHUSH"]);
        assert_eq!(error.kind(), ErrorKind::Config);
        let error = restore_with(&lab, options).unwrap_err();
        assert!(error.to_string().contains("age_identity") && !error.to_string().contains("HUSHHUSH"), "{error}");
    }
}

#[test]
fn rule_3_a_backup_that_nobody_here_can_read_needs_a_word() {
    let lab = Lab::new();
    let _app = lab.create(4096);
    let (mine, theirs) = (make(IdentityKind::PostQuantum), make(IdentityKind::PostQuantum));
    let options = sealed_to(&lab, &theirs).with(ConfigKey::AgeIdentity, mine.identity.as_str());
    let error = refused(&lab, &options, &[&mine.identity[20..40]]);
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(options.with(ConfigKey::AgeAllowForeign, "true").check().is_ok());
    let both = sealed_to(&lab, &mine).with(ConfigKey::AgeIdentity, mine.identity.as_str());
    assert!(both.check().is_ok());
}

fn wait_for_failure(handle: &Handle) -> Error {
    let events = handle.events();
    while handle.sync_status().unwrap().state != State::Failed {
        let event = events.next(SOON);
        assert!(event.is_some(), "no event in time, state {}", handle.sync_status().unwrap().state);
    }
    handle.sync_status().unwrap().last_error.expect("an error")
}

#[test]
fn rule_5_sealed_and_plain_never_mix_in_one_replica_without_a_word() {
    let (lab, keys) = (Lab::new(), make(IdentityKind::PostQuantum));
    let app = lab.create(4096);
    let both = sealed_to(&lab, &keys).with(ConfigKey::AgeIdentity, keys.identity.as_str());
    let plain = Handle::start(&lab.database, lab.config()).unwrap();
    plain.sync(SOON).unwrap();
    plain.stop(SOON).unwrap();
    let before = objects(&lab.replica).len();

    app.execute("INSERT INTO t VALUES (1, x'00', 'a')", []).unwrap();
    let sealed = Handle::start(&lab.database, both.check().unwrap()).unwrap();
    let error = wait_for_failure(&sealed);
    assert_eq!(error.kind(), ErrorKind::Keys);
    assert!(error.to_string().contains("age_allow_plaintext"), "{error}");
    let _ = sealed.stop(SOON);
    assert_eq!(objects(&lab.replica).len(), before, "nothing was stored");
    // With a private key at hand, a plain file is not what is expected.
    assert_eq!(restore_with(&lab, opened_by(&keys)).unwrap_err().kind(), ErrorKind::Keys);

    let allowed = both.with(ConfigKey::AgeAllowPlaintext, "true");
    let sealed = Handle::start(&lab.database, allowed.check().unwrap()).unwrap();
    sealed.sync(SOON).unwrap();
    sealed.stop(SOON).unwrap();
    assert_eq!(lab.count("9"), 1, "the first sealed object is an image of all");
    assert_same_pages(&app, &restore_with(&lab, opened_by(&keys)).unwrap());

    // And back.
    let count = objects(&lab.replica).len();
    app.execute("INSERT INTO t VALUES (2, x'00', 'a')", []).unwrap();
    let plain = Handle::start(&lab.database, lab.config()).unwrap();
    let error = wait_for_failure(&plain);
    assert!(error.kind() == ErrorKind::Keys && error.to_string().contains("REPLICATE_AGE_RECIPIENT"), "{error}");
    let _ = plain.stop(SOON);
    assert_eq!(objects(&lab.replica).len(), count, "nothing was stored");
}

#[test]
fn rule_8_nothing_of_a_damaged_file_reaches_the_database() {
    let (lab, keys) = (Lab::new(), make(IdentityKind::X25519));
    let app = lab.create(4096);
    let mut random = Random(3);
    (0..40).for_each(|_| churn(&app, &mut random));
    let handle = Handle::start(&lab.database, sealed_to(&lab, &keys).check().unwrap()).unwrap();
    handle.sync(SOON).unwrap();
    handle.stop(SOON).unwrap();
    let victim = objects(&lab.replica).into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let good = std::fs::read(&victim).unwrap();
    let output = lab.folder.path().join("back.db");
    std::fs::write(&output, b"precious").unwrap();
    for at in [0, 30, 150, 170, 190, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        std::fs::write(&victim, bytes).unwrap();
        let error = restore_with(&lab, opened_by(&keys)).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Keys), "{at}: {error}");
        assert_eq!(std::fs::read(&output).unwrap(), b"precious");
    }
    for len in [good.len() - 1, good.len() - 17, good.len() / 2, 190, 100] {
        std::fs::write(&victim, &good[..len]).unwrap();
        let error = restore_with(&lab, opened_by(&keys)).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Keys), "{len}: {error}");
    }
    assert_eq!(std::fs::read(&output).unwrap(), b"precious");
}

#[test]
fn rule_11_after_a_change_of_recipients_the_next_object_is_an_image_of_all() {
    let (lab, old, new) = (Lab::new(), make(IdentityKind::X25519), make(IdentityKind::PostQuantum));
    let app = lab.create(4096);
    let mut random = Random(5);
    let handle = Handle::start(&lab.database, sealed_to(&lab, &old).check().unwrap()).unwrap();
    for _ in 0..4 {
        churn(&app, &mut random);
        handle.sync(SOON).unwrap();
    }
    // A second call with other keys is not the same replicator.
    let error = Handle::start(&lab.database, sealed_to(&lab, &new).check().unwrap()).expect_err("other keys");
    assert_eq!(error.kind(), ErrorKind::Config);
    handle.stop(SOON).unwrap();
    assert_eq!(lab.count("9"), 0);

    churn(&app, &mut random);
    let handle = Handle::start(&lab.database, sealed_to(&lab, &new).check().unwrap()).unwrap();
    let events = handle.events();
    handle.sync(SOON).unwrap();
    let mut rebases = Vec::new();
    while let Some(event) = events.next(std::time::Duration::ZERO) {
        if let Event::Captured { rebase: Some(reason), .. } = event {
            rebases.push(reason.name());
        }
    }
    churn(&app, &mut random);
    handle.sync(SOON).unwrap();
    handle.stop(SOON).unwrap();
    assert!(rebases.is_empty() || rebases == ["keys-changed"], "{rebases:?}");
    assert_eq!(lab.count("9"), 1);
    // Whoever holds only the new key restores everything that is newest; the old key still opens the past.
    assert_same_pages(&app, &restore_with(&lab, opened_by(&new)).unwrap());
    let output = lab.folder.path().join("past.db");
    let config = opened_by(&old).with(ConfigKey::Url, format!("file://{}", lab.replica.display())).check().unwrap();
    let past = RestoreOptions::new(&output).target(Target::Txid(Txid(2)));
    restore(&past, &config, &Cancel::new(), &mut |_| ()).unwrap();

    // Unchanged keys make no image.
    churn(&app, &mut random);
    let handle = Handle::start(&lab.database, sealed_to(&lab, &new).check().unwrap()).unwrap();
    handle.sync(SOON).unwrap();
    handle.stop(SOON).unwrap();
    assert_eq!(lab.count("9"), 1);
}

#[test]
fn a_missing_database_whose_key_is_missing_is_an_error_not_a_fresh_start() {
    let (lab, keys) = (Lab::new(), make(IdentityKind::PostQuantum));
    let app = lab.create(4096);
    let handle = Handle::start(&lab.database, sealed_to(&lab, &keys).check().unwrap()).unwrap();
    handle.sync(SOON).unwrap();
    handle.stop(SOON).unwrap();
    drop(app);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(common::with_suffix(&lab.database, suffix));
    }
    let error = Handle::start(&lab.database, sealed_to(&lab, &keys).check().unwrap()).expect_err("no key");
    assert_eq!(error.kind(), ErrorKind::Keys);
    let options = sealed_to(&lab, &keys).with(ConfigKey::AgeIdentity, keys.identity.as_str());
    let handle = Handle::start(&lab.database, options.check().unwrap()).unwrap();
    let tables: i64 = lab.open().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 0);
    handle.stop(SOON).unwrap();
}

#[test]
fn a_replica_that_lost_its_end_is_refused_by_who_knows_how_far_it_was() {
    let (lab, keys) = (Lab::new(), make(IdentityKind::X25519));
    let app = lab.create(4096);
    let mut random = Random(9);
    let handle = Handle::start(&lab.database, sealed_to(&lab, &keys).check().unwrap()).unwrap();
    for _ in 0..3 {
        churn(&app, &mut random);
        handle.sync(SOON).unwrap();
    }
    let last = handle.stop(SOON).unwrap().remote_txid;
    let url = format!("file://{}", lab.replica.display());
    let config = opened_by(&keys).with(ConfigKey::Url, url).check().unwrap();
    let output = lab.folder.path().join("back.db");
    let options = RestoreOptions::new(&output).overwrite(true).min_txid(last);
    restore(&options, &config, &Cancel::new(), &mut |_| ()).unwrap();
    let newest = objects(&lab.replica).into_iter().max().unwrap();
    std::fs::remove_file(newest).unwrap();
    let error = restore(&options, &config, &Cancel::new(), &mut |_| ()).expect_err("rolled back");
    assert_eq!(error.kind(), ErrorKind::Diverged, "{error}");
}

#[test]
fn objects_that_are_moved_replaced_or_made_by_others_are_refused_where_authentication_is_demanded() {
    let (lab, keys) = (Lab::new(), make(IdentityKind::PostQuantum));
    let secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let app = lab.create(4096);
    let mut random = Random(13);
    let signed = sealed_to(&lab, &keys).with(ConfigKey::AuthKey, secret);
    let handle = Handle::start(&lab.database, signed.check().unwrap()).unwrap();
    for _ in 0..3 {
        churn(&app, &mut random);
        handle.sync(SOON).unwrap();
    }
    handle.stop(SOON).unwrap();
    let demanding = || opened_by(&keys).with(ConfigKey::AuthKey, secret);
    assert_same_pages(&app, &restore_with(&lab, demanding()).unwrap());
    // Without the secret it is an ordinary age file.
    assert_same_pages(&app, &restore_with(&lab, opened_by(&keys)).unwrap());

    let mut files = objects(&lab.replica);
    files.sort();
    let good = std::fs::read(&files[1]).unwrap();
    std::fs::copy(&files[2], &files[1]).unwrap();
    let moved = restore_with(&lab, demanding()).unwrap_err();
    assert!(moved.kind() == ErrorKind::Corrupt && moved.to_string().contains("another place"), "{moved}");
    std::fs::write(&files[1], good).unwrap();

    // A database of somebody who knows the public key, in the same place.
    std::fs::remove_dir_all(&lab.replica).unwrap();
    std::fs::remove_dir_all(lab.folder.path().join(".app.db-replicate")).unwrap();
    let handle = Handle::start(&lab.database, sealed_to(&lab, &keys).check().unwrap()).unwrap();
    handle.sync(SOON).unwrap();
    handle.stop(SOON).unwrap();
    assert!(restore_with(&lab, opened_by(&keys)).is_ok());
    let forged = restore_with(&lab, demanding()).unwrap_err();
    assert!(forged.kind() == ErrorKind::Corrupt && forged.to_string().contains("no authentication"), "{forged}");
    assert!(!format!("{forged:?}").contains(secret));
}

#[test]
fn rewrapped_files_open_with_the_new_keys_only_and_the_host_goes_on() {
    let (lab, old, new) = (Lab::new(), make(IdentityKind::X25519), make(IdentityKind::PostQuantum));
    let app = lab.create(4096);
    let mut random = Random(17);
    let write = |keys: &GeneratedIdentity, random: &mut Random| {
        let handle = Handle::start(&lab.database, sealed_to(&lab, keys).check().unwrap()).unwrap();
        for _ in 0..3 {
            churn(&app, random);
            handle.sync(SOON).unwrap();
        }
        handle.stop(SOON).unwrap();
    };
    write(&old, &mut random);
    write(&new, &mut random);
    let both = format!("{}\n{}", *old.identity, *new.identity);
    let config = sealed_to(&lab, &new).with(ConfigKey::AgeIdentity, both).check().unwrap();
    let times: Vec<_> = replicate::list(&config).unwrap().into_iter().map(|file| (file.txids, file.created)).collect();
    let mut told = 0;
    let report = replicate::rewrap(&config, &mut |progress| told = progress.done).unwrap();
    assert_eq!((report.rewrapped, report.plain), (times.len() as u64, 0));
    assert!(told <= report.rewrapped);
    let after: Vec<_> = replicate::list(&config).unwrap().into_iter().map(|file| (file.txids, file.created)).collect();
    assert_eq!(after, times, "timestamps stay");
    assert_same_pages(&app, &restore_with(&lab, opened_by(&new)).unwrap());
    let past = |keys: &GeneratedIdentity| {
        let url = format!("file://{}", lab.replica.display());
        let config = opened_by(keys).with(ConfigKey::Url, url).check().unwrap();
        let options =
            RestoreOptions::new(lab.folder.path().join("past.db")).overwrite(true).target(Target::Txid(Txid(2)));
        restore(&options, &config, &Cancel::new(), &mut |_| ()).map(|report| report.txid)
    };
    assert_eq!(past(&new).unwrap(), Txid(2));
    assert_eq!(past(&old).unwrap_err().kind(), ErrorKind::Keys);
    // The replicator finds its own objects, in another coat of the same size.
    let images = lab.count("9");
    write(&new, &mut random);
    assert_eq!(lab.count("9"), images);
    assert_same_pages(&app, &restore_with(&lab, opened_by(&new)).unwrap());

    let alone = opened_by(&new).with(ConfigKey::Url, format!("file://{}", lab.replica.display())).check().unwrap();
    assert_eq!(replicate::rewrap(&alone, &mut |_| ()).unwrap_err().kind(), ErrorKind::Config);
}
