//! Sealing fails closed: every rule of "When it stops" in `core/docs/SEALING.md`, and that new keys begin with an
//! image. After an error about a key nothing is stored, and no secret is ever told. The numbers are the tests' own.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "tests")]

mod common;

use std::path::PathBuf;

use common::sealing::{
    AUTH, hear, is_sealed, lines_heard, listen, make, objects, opened_by, restore_with, sealed_to, told,
};
use common::{Lab, Random, SOON, assert_same_pages, churn};
use replicate::seal::{GeneratedIdentity, IdentityKind};
use replicate::{
    Cancel, ConfigKey, Error, ErrorKind, Event, Handle, Options, RestoreOptions, State, Target, Txid, restore,
};

/// Starts with these options, which must fail, and checks that nothing was stored and nothing was told.
fn refused(lab: &Lab, options: &Options, secrets: &[&str]) -> Error {
    listen();
    let error = options.check().and_then(|config| Handle::start(&lab.database, config)).expect_err("refused");
    assert_eq!(objects(&lab.replica), Vec::<PathBuf>::new());
    hear(&format!("{error} {error:?} {options:?}"));
    assert_eq!(told(secrets), Vec::<String>::new());
    error
}

/// A key with another last letter of those that keys are written with.
fn with_another_end(key: &str) -> String {
    let (start, last) = key.split_at(key.len() - 1);
    let other = if last.eq_ignore_ascii_case("q") { "p" } else { "q" };
    let upper = last.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()) && key.starts_with('A');
    format!("{start}{}", if upper { other.to_ascii_uppercase() } else { other.to_owned() })
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
fn rule_1_a_wrong_empty_or_mixed_recipient_starts_nothing() {
    let lab = Lab::new();
    let _app = lab.create(4096);
    let (classic, hybrid) = (make(IdentityKind::X25519), make(IdentityKind::PostQuantum));
    let mixed = format!("{}\n{}", classic.recipient, hybrid.recipient);
    let mistyped = with_another_end(&classic.recipient);
    for wrong in ["age1xyz", " ", "\n", "# only a comment", &mixed, &mistyped, &classic.identity, "age1,age1"] {
        let wrong: &str = wrong;
        let error = refused(&lab, &lab.options().with(ConfigKey::AgeRecipient, wrong), &[&classic.identity]);
        assert_eq!(error.kind(), ErrorKind::Config, "{wrong:?}");
        assert!(
            error.to_string().contains("REPLICATE_AGE_RECIPIENT") || error.to_string().contains("mixed"),
            "{error}"
        );
    }
    for (ssh, why) in [
        (include_str!("data/age/keys/ssh_rsa2048.pub"), "only ssh-ed25519 is supported"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBcpFp0000000000000000000000000000000000 me@here", "not a well-formed"),
        (&format!("{}{}", include_str!("data/age/keys/ssh_ed25519.pub"), hybrid.recipient), "mixed"),
    ] {
        let error = refused(&lab, &lab.options().with(ConfigKey::AgeRecipient, ssh), &[]);
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains(why), "{error}");
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
    let mistyped = with_another_end(&keys.identity);
    let cut = &keys.identity[..60];
    for wrong in [mistyped.as_str(), cut, "AGE-SECRET-KEY-1HUSHHUSHHUSHHUSH", &keys.recipient, " "] {
        let options = lab.options().with(ConfigKey::AgeIdentity, wrong);
        let error = refused(&lab, &options, &[&keys.identity, "HUSHHUSHHUSHHUSH"]);
        assert_eq!(error.kind(), ErrorKind::Config);
        let error = restore_with(&lab, options).unwrap_err();
        assert!(error.to_string().contains("age_identity") && !error.to_string().contains("HUSHHUSH"), "{error}");
    }
    let file = lab.folder.path().join("id_ed25519");
    let options = lab.options().with(ConfigKey::AgeIdentityFile, file.to_str().unwrap());
    for (kind, why) in [("OPENSSH", "not a well-formed SSH key"), ("RSA", "only ssh-ed25519 is supported")] {
        let ssh = format!("-----BEGIN {kind} PRIVATE KEY-----\nHUSHHUSHHUSHHUSH\n-----END {kind} PRIVATE KEY-----\n");
        std::fs::write(&file, ssh).unwrap();
        let error = refused(&lab, &options, &["HUSHHUSHHUSHHUSH"]);
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains(why), "{error}");
    }
    std::fs::write(&file, b"AGE-SECRET-KEY-1HUSHHUSHHUSHHUSH\xff\n").unwrap();
    assert!(refused(&lab, &options, &["HUSHHUSHHUSHHUSH"]).to_string().contains("not a text"));
}

#[test]
fn rule_3_a_backup_that_nobody_here_can_read_needs_a_word() {
    let lab = Lab::new();
    let _app = lab.create(4096);
    let (mine, theirs) = (make(IdentityKind::PostQuantum), make(IdentityKind::PostQuantum));
    let options = sealed_to(&lab, &theirs).with(ConfigKey::AgeIdentity, mine.identity.as_str());
    let error = refused(&lab, &options, &[&mine.identity]);
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(options.with(ConfigKey::AgeAllowForeign, "true").check().is_ok());
    let both = sealed_to(&lab, &mine).with(ConfigKey::AgeIdentity, mine.identity.as_str());
    assert!(both.check().is_ok());
}

#[test]
fn keys_to_read_with_and_none_to_write_with_write_nothing_plain() {
    let lab = Lab::new();
    let _app = lab.create(4096);
    let keys = make(IdentityKind::X25519);
    let identity = lab.options().with(ConfigKey::AgeIdentity, keys.identity.as_str());
    // As a template leaves it whose variable is empty.
    let emptied = identity.clone().with(ConfigKey::AgeRecipient, "").with(ConfigKey::AuthKey, AUTH);
    for options in [&identity, &emptied] {
        let error = refused(&lab, options, &[&keys.identity, AUTH]);
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains("written plain"), "{error}");
    }
    let handle = identity.with(ConfigKey::AgeAllowPlaintext, "true").check().unwrap();
    let handle = Handle::start(&lab.database, handle).unwrap();
    handle.sync(SOON).unwrap();
    handle.stop(SOON).unwrap();
    assert!(objects(&lab.replica).iter().all(|path| !is_sealed(path)));
}

#[test]
fn rule_4_everything_that_is_stored_is_sealed_files_and_images() {
    let (lab, old, new) = (Lab::new(), make(IdentityKind::PostQuantum), make(IdentityKind::PostQuantum));
    let app = lab.create(4096);
    let mut random = Random(4);
    for keys in [&old, &old, &new] {
        let handle = Handle::start(&lab.database, sealed_to(&lab, keys).check().unwrap()).unwrap();
        for _ in 0..3 {
            churn(&app, &mut random);
            handle.sync(SOON).unwrap();
        }
        handle.stop(SOON).unwrap();
    }
    assert!(lab.count("0") >= 8 && lab.count("9") == 1, "{} {}", lab.count("0"), lab.count("9"));
    // Every file in the folder, whatever its name. That there is no other way is a matter of types: `LtxStore::put`.
    assert!(objects(&lab.replica).iter().all(|path| is_sealed(path)));
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
fn rule_5_holds_where_the_bucket_was_emptied_or_somebody_has_put_a_plain_file_in_it() {
    for emptied in [true, false] {
        let (lab, keys) = (Lab::new(), make(IdentityKind::X25519));
        let app = lab.create(4096);
        let sealed = Handle::start(&lab.database, sealed_to(&lab, &keys).check().unwrap()).unwrap();
        sealed.sync(SOON).unwrap();
        sealed.stop(SOON).unwrap();
        if emptied {
            std::fs::remove_dir_all(&lab.replica).unwrap();
        } else {
            // This host has forgotten all, and the newest file is a plain one.
            std::fs::remove_dir_all(lab.folder.path().join(".app.db-replicate")).unwrap();
            let planted = lab.replica.join("ltx/9/0000000000000001-0000000000000099.ltx");
            std::fs::create_dir_all(planted.parent().unwrap()).unwrap();
            std::fs::write(planted, [0; 500]).unwrap();
        }
        let before = objects(&lab.replica).len();
        app.execute("INSERT INTO t VALUES (1, x'00', 'a')", []).unwrap();
        // The variable with the public key is lost.
        let plain = Handle::start(&lab.database, lab.config()).unwrap();
        let error = wait_for_failure(&plain);
        assert!(error.kind() == ErrorKind::Keys && error.to_string().contains("REPLICATE_AGE_RECIPIENT"), "{error}");
        let _ = plain.stop(SOON);
        assert_eq!(objects(&lab.replica).len(), before, "nothing was stored");
        let allowed = lab.options().with(ConfigKey::AgeAllowPlaintext, "true").check().unwrap();
        let plain = Handle::start(&lab.database, allowed).unwrap();
        plain.sync(SOON).unwrap();
        plain.stop(SOON).unwrap();
    }
}

#[test]
fn rule_6_a_sealed_replica_without_a_private_key_is_called_sealed_not_damaged() {
    let (lab, keys) = (Lab::new(), make(IdentityKind::PostQuantum));
    let _app = lab.create(4096);
    let handle = Handle::start(&lab.database, sealed_to(&lab, &keys).check().unwrap()).unwrap();
    handle.sync(SOON).unwrap();
    handle.stop(SOON).unwrap();
    for options in [Options::new(), Options::new().with(ConfigKey::AgeRecipient, &*keys.recipient)] {
        let error = restore_with(&lab, options).unwrap_err();
        assert_eq!((error.kind(), error.reason()), (ErrorKind::Keys, Some("NO_IDENTITY")));
        assert!(error.to_string().contains("REPLICATE_AGE_IDENTITY"), "{error}");
    }
    assert!(!lab.folder.path().join("back.db").exists());
}

#[test]
fn rule_7_each_reason_has_a_name_of_its_own_and_none_is_worth_a_retry() {
    let (lab, keys) = (Lab::new(), make(IdentityKind::X25519));
    let _app = lab.create(4096);
    let handle = Handle::start(&lab.database, sealed_to(&lab, &keys).check().unwrap()).unwrap();
    handle.sync(SOON).unwrap();
    handle.stop(SOON).unwrap();
    let [object] = objects(&lab.replica).try_into().expect("one object");
    let good = std::fs::read(&object).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = if bytes[at] == byte { byte + 1 } else { byte };
        bytes
    };
    let (open, other) = (opened_by(&keys), opened_by(&make(IdentityKind::X25519)));
    let auth = open.clone().with(ConfigKey::AuthKey, AUTH);
    let cases = [
        (vec![b'S'; 300], &open, ErrorKind::Keys, "NOT_AGE"),
        (with(30, b'\n'), &open, ErrorKind::Corrupt, "HEADER"),
        (good[..150].to_vec(), &open, ErrorKind::Corrupt, "HEADER"),
        (good.clone(), &other, ErrorKind::Keys, "NO_MATCH"),
        (with(130, b'A'), &open, ErrorKind::Corrupt, "BAD_MAC"),
        (with(good.len() - 1, 0), &open, ErrorKind::Corrupt, "PAYLOAD"),
        (good[..good.len() - 1].to_vec(), &open, ErrorKind::Corrupt, "PAYLOAD"),
        (good.clone(), &auth, ErrorKind::Corrupt, "FORGED"),
    ];
    for (bytes, options, kind, reason) in cases {
        std::fs::write(&object, bytes).unwrap();
        let error = restore_with(&lab, options.clone()).unwrap_err();
        assert_eq!((error.kind(), error.reason()), (kind, Some(reason)), "{error}");
        assert!(!error.is_retryable());
    }
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

/// The rules 9 and 10: a whole life with every secret there is, and many failures, while everything is listened to.
#[test]
fn rules_9_and_10_secrets_are_never_told() {
    listen();
    let auth_key = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlYzA=";
    let ssh = || GeneratedIdentity {
        identity: include_str!("data/age/keys/ssh_ed25519").to_owned().into(),
        recipient: include_str!("data/age/keys/ssh_ed25519.pub").to_owned(),
    };
    let made = IdentityKind::ALL.map(|kind| (kind.name(), make(kind), make(kind)));
    for (kind, keys, other) in made.into_iter().chain([("ssh", ssh(), make(IdentityKind::X25519))]) {
        let lab = Lab::new();
        let app = lab.create(4096);
        let mut random = Random(91);
        let options = sealed_to(&lab, &keys)
            .with(ConfigKey::AgeIdentity, keys.identity.as_str())
            .with(ConfigKey::AuthKey, auth_key);
        let config = options.check().unwrap();
        hear(&format!("{options:?} {config:?} {:?} {keys:?}", config.keys));
        let handle = Handle::start(&lab.database, config).unwrap();
        hear(&format!("{handle:?}"));
        for _ in 0..3 {
            churn(&app, &mut random);
            let status = handle.sync(SOON).unwrap();
            hear(&format!("{status:?}"));
            // What is told of the public keys: how many, of which kind, and four bytes to tell them apart.
            let [told] = status.sealed_to.as_slice() else { panic!("{status:?}") };
            let (name, digits) = told.split_once(':').unwrap();
            assert!(name == kind && digits.len() == 8 && !keys.recipient.contains(digits), "{told}");
        }
        hear(&format!("{:?}", handle.stop(SOON)));
        let reading = |keys: &GeneratedIdentity, auth: &str| opened_by(keys).with(ConfigKey::AuthKey, auth);
        assert!(restore_with(&lab, reading(&keys, auth_key)).is_ok());
        let mut failures = vec![
            restore_with(&lab, reading(&other, auth_key)).unwrap_err(),
            restore_with(&lab, reading(&keys, "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlYzE=")).unwrap_err(),
            restore_with(&lab, reading(&keys, "c2VjcmV0IHNlY3JldCBzZWNyZXQ=")).unwrap_err(),
            replicate::seal::recipient_of(&keys.identity[..60]).unwrap_err(),
            replicate::seal::recipient_of(&keys.identity.to_lowercase()).unwrap_err(),
        ];
        // A secret in the place of each option there is.
        for key in ConfigKey::ALL {
            for secret in [keys.identity.as_str(), &format!("{}\u{e9}", *keys.identity), &keys.identity[..70]] {
                let options = reading(&keys, auth_key).with(*key, secret);
                hear(&format!("{options:?}"));
                let config = options.with(ConfigKey::Url, format!("file://{}", lab.replica.display())).check();
                failures.extend(config.err());
            }
        }
        let rewrapped = sealed_to(&lab, &other).with(ConfigKey::AgeIdentity, other.identity.as_str()).check().unwrap();
        failures.push(replicate::rewrap(&rewrapped, &mut |_| ()).unwrap_err());
        for path in objects(&lab.replica) {
            let mut bytes = std::fs::read(&path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        failures.push(restore_with(&lab, reading(&keys, auth_key)).unwrap_err());
        for error in failures {
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(one) = cause {
                hear(&format!("{one} {one:?}"));
                cause = one.source();
            }
        }
        // Of an SSH key only these letters are secret: the public half is in it, too.
        let secret = if kind == "ssh" { &keys.identity.lines().nth(4).unwrap()[6..46] } else { keys.identity.as_str() };
        let all = [secret, &other.identity, auth_key];
        assert_eq!(told(&all), Vec::<String>::new());
        // And all of it was listened to.
        assert!(lines_heard() > 50, "{}", lines_heard());
        hear(&keys.identity.to_lowercase());
        assert!(!told(&all).is_empty());
    }
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
    let config = sealed_to(&lab, &new).check().unwrap();
    let (handle, events) = Handle::start_with_events(&lab.database, config, &Cancel::new()).unwrap();
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
    assert_eq!(rebases, ["keys-changed"]);
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
fn rule_11_holds_for_a_new_authentication_key_too() {
    let (lab, keys) = (Lab::new(), make(IdentityKind::X25519));
    let app = lab.create(4096);
    let mut random = Random(6);
    for (options, images) in [
        (sealed_to(&lab, &keys), 0),
        (sealed_to(&lab, &keys).with(ConfigKey::AuthKey, AUTH), 1),
        (sealed_to(&lab, &keys).with(ConfigKey::AuthKey, AUTH), 1),
    ] {
        churn(&app, &mut random);
        let handle = Handle::start(&lab.database, options.check().unwrap()).unwrap();
        handle.sync(SOON).unwrap();
        churn(&app, &mut random);
        handle.sync(SOON).unwrap();
        handle.stop(SOON).unwrap();
        assert_eq!(lab.count("9"), images);
    }
    // Whoever demands it needs nothing of before.
    assert_same_pages(&app, &restore_with(&lab, opened_by(&keys).with(ConfigKey::AuthKey, AUTH)).unwrap());
}
