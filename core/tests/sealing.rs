//! Sealing from outside: what is stored, who restores it, and what changes of keys do. (What is refused: `fail_closed.rs`.)
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "tests")]

mod common;

use common::sealing::{AUTH, is_sealed, make, objects, opened_by, restore_with, sealed_to};
use common::{Lab, Random, SOON, assert_same_pages, churn};
use replicate::seal::{GeneratedIdentity, IdentityKind};
use replicate::{Cancel, ConfigKey, ErrorKind, Handle, Options, RestoreOptions, Target, Txid, restore};

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

#[test]
fn an_ssh_key_seals_and_its_private_half_restores() {
    let lab = Lab::new();
    let app = lab.create(4096);
    let (public, private) = (include_str!("data/age/keys/ssh_ed25519.pub"), include_str!("data/age/keys/ssh_ed25519"));
    let options = lab.options().with(ConfigKey::AgeRecipient, public);
    let handle = Handle::start(&lab.database, options.check().unwrap()).unwrap();
    app.execute("INSERT INTO t VALUES (1, x'00', 'a')", []).unwrap();
    let status = handle.sync(SOON).unwrap();
    assert!(matches!(status.sealed_to.as_slice(), [one] if one.starts_with("ssh:")), "{status:?}");
    handle.stop(SOON).unwrap();
    assert!(objects(&lab.replica).iter().all(|path| is_sealed(path)));
    // Alone, and in a list with others.
    let other = make(IdentityKind::PostQuantum);
    for list in [private.to_owned(), format!("# first\n{}\n\n{private}", *other.identity)] {
        assert_same_pages(&app, &restore_with(&lab, Options::new().with(ConfigKey::AgeIdentity, list)).unwrap());
    }
    let [ours] = replicate::seal::recipient_of(private).unwrap().try_into().unwrap();
    assert!(public.starts_with(&ours), "{ours}");
    let error = restore_with(&lab, opened_by(&other)).unwrap_err();
    assert_eq!(error.reason(), Some("NO_MATCH"), "{error}");
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
    let app = lab.create(4096);
    let mut random = Random(13);
    let signed = sealed_to(&lab, &keys).with(ConfigKey::AuthKey, AUTH);
    let handle = Handle::start(&lab.database, signed.check().unwrap()).unwrap();
    for _ in 0..3 {
        churn(&app, &mut random);
        handle.sync(SOON).unwrap();
    }
    handle.stop(SOON).unwrap();
    let demanding = || opened_by(&keys).with(ConfigKey::AuthKey, AUTH);
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

    // The same host in the same place, after everything was lost; then one file of before takes its old place.
    let start_anew = || {
        std::fs::remove_dir_all(&lab.replica).unwrap();
        std::fs::remove_dir_all(lab.folder.path().join(".app.db-replicate")).unwrap();
    };
    let old = std::fs::read(&files[1]).unwrap();
    start_anew();
    for _ in 0..3 {
        // Also from one start to the next each file names the one before it.
        let handle = Handle::start(&lab.database, signed.check().unwrap()).unwrap();
        churn(&app, &mut random);
        handle.sync(SOON).unwrap();
        handle.stop(SOON).unwrap();
    }
    assert_same_pages(&app, &restore_with(&lab, demanding()).unwrap());
    assert_eq!(objects(&lab.replica).len(), files.len());
    let good = std::fs::read(&files[1]).unwrap();
    std::fs::write(&files[1], old).unwrap();
    let replaced = restore_with(&lab, demanding()).unwrap_err();
    assert!(replaced.kind() == ErrorKind::Corrupt && replaced.to_string().contains("another time"), "{replaced}");
    std::fs::write(&files[1], good).unwrap();
    assert_same_pages(&app, &restore_with(&lab, demanding()).unwrap());

    // A database of somebody who knows the public key, in the same place: sealed, and plain where plain files may be.
    start_anew();
    let handle = Handle::start(&lab.database, sealed_to(&lab, &keys).check().unwrap()).unwrap();
    handle.sync(SOON).unwrap();
    handle.stop(SOON).unwrap();
    assert!(restore_with(&lab, opened_by(&keys)).is_ok());
    let forged = restore_with(&lab, demanding()).unwrap_err();
    assert!(forged.kind() == ErrorKind::Corrupt && forged.to_string().contains("no authentication"), "{forged}");
    assert!(!format!("{forged:?}").contains(AUTH));
    start_anew();
    let plain = Options::new().with(ConfigKey::Url, format!("file://{}", lab.replica.display()));
    let handle = Handle::start(&lab.database, plain.check().unwrap()).unwrap();
    handle.sync(SOON).unwrap();
    handle.stop(SOON).unwrap();
    let lenient = || opened_by(&keys).with(ConfigKey::AgeAllowPlaintext, "true");
    assert!(restore_with(&lab, lenient()).is_ok());
    let plain = restore_with(&lab, lenient().with(ConfigKey::AuthKey, AUTH)).unwrap_err();
    assert_eq!((plain.kind(), plain.reason()), (ErrorKind::Keys, Some("NOT_AGE")), "{plain}");
}

#[test]
fn an_image_of_an_earlier_life_of_the_path_does_not_stand_before_what_followed_a_newer_one() {
    let (lab, keys) = (Lab::new(), make(IdentityKind::PostQuantum));
    let app = lab.create(4096);
    let mut random = Random(17);
    let signed = || sealed_to(&lab, &keys).with(ConfigKey::AuthKey, AUTH).check().unwrap();
    let state = lab.folder.path().join(".app.db-replicate");
    let demanding = || opened_by(&keys).with(ConfigKey::AuthKey, AUTH);
    let start = || {
        let handle = Handle::start(&lab.database, signed()).unwrap();
        handle.sync(SOON).unwrap();
        handle
    };
    let mut run = || {
        let handle = start();
        churn(&app, &mut random);
        handle.sync(SOON).unwrap();
        handle.stop(SOON).unwrap();
    };
    // Twice the same: a file of level 0, then the state is lost, and an image is the newest file.
    let live = || {
        start().stop(SOON).unwrap();
        std::fs::remove_dir_all(&state).unwrap();
        start().stop(SOON).unwrap();
        let images = objects(&lab.replica.join("ltx/9"));
        let [image] = images.as_slice() else { panic!("one image: {images:?}") };
        (image.clone(), std::fs::read(image).unwrap())
    };
    let (name, old) = live();
    std::fs::remove_dir_all(&lab.replica).unwrap();
    std::fs::remove_dir_all(&state).unwrap();
    let (image, new) = live();
    assert_eq!((&image, new.len()), (&name, old.len()), "nothing tells them apart");
    assert_ne!(new, old);
    // What lies there at a restart is not believed: the host remembers what it has made.
    std::fs::write(&image, &old).unwrap();
    run();
    let replaced = || restore_with(&lab, demanding()).expect_err("an image of another life");
    assert!(replaced().kind() == ErrorKind::Corrupt && replaced().to_string().contains("another time"));
    std::fs::write(&image, new).unwrap();
    assert_same_pages(&app, &restore_with(&lab, demanding()).unwrap());
    run();
    std::fs::write(&image, &old).unwrap();
    assert!(replaced().kind() == ErrorKind::Corrupt && replaced().to_string().contains("another time"));
}

#[test]
fn a_new_header_keeps_who_has_made_a_file_and_damaged_files_keep_no_others_from_theirs() {
    let (lab, old, new) = (Lab::new(), make(IdentityKind::X25519), make(IdentityKind::X25519));
    let app = lab.create(4096);
    let mut random = Random(23);
    let handle = Handle::start(&lab.database, sealed_to(&lab, &old).with(ConfigKey::AuthKey, AUTH).check().unwrap());
    let handle = handle.unwrap();
    for _ in 0..6 {
        churn(&app, &mut random);
        handle.sync(SOON).unwrap();
    }
    handle.stop(SOON).unwrap();
    let mut files = objects(&lab.replica);
    files.sort();
    let good = std::fs::read(&files[0]).unwrap();
    let mut damaged = good.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&files[0], damaged).unwrap();
    // Without the secret: nobody needs it to keep what it has made.
    let both = || sealed_to(&lab, &new).with(ConfigKey::AgeIdentity, format!("{}\n{}", *old.identity, *new.identity));
    let error = replicate::rewrap(&both().check().unwrap(), &mut |_| ()).unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("1 of 6 files are left"), "{error}");
    std::fs::write(&files[0], good).unwrap();
    assert_eq!(replicate::rewrap(&both().check().unwrap(), &mut |_| ()).unwrap().rewrapped, files.len() as u64);
    assert_same_pages(&app, &restore_with(&lab, opened_by(&new).with(ConfigKey::AuthKey, AUTH)).unwrap());
}

#[test]
fn a_host_whose_files_got_a_header_for_more_keys_than_it_has_goes_on_with_an_image() {
    let (lab, host, auditor) = (Lab::new(), make(IdentityKind::X25519), make(IdentityKind::X25519));
    let app = lab.create(4096);
    let mut random = Random(29);
    let mut write = || {
        let options = sealed_to(&lab, &host).with(ConfigKey::AuthKey, AUTH);
        let handle = Handle::start(&lab.database, options.check().unwrap()).unwrap();
        churn(&app, &mut random);
        handle.sync(SOON).unwrap();
        handle.stop(SOON).unwrap();
    };
    write();
    let recipients = format!("{}\n{}", host.recipient, auditor.recipient);
    let options = lab.options().with(ConfigKey::AgeRecipient, recipients);
    let config = options.with(ConfigKey::AgeIdentity, host.identity.as_str()).check().unwrap();
    assert!(replicate::rewrap(&config, &mut |_| ()).unwrap().rewrapped > 0);
    write();
    assert_eq!(lab.count("9"), 1);
    assert_same_pages(&app, &restore_with(&lab, opened_by(&host).with(ConfigKey::AuthKey, AUTH)).unwrap());
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
