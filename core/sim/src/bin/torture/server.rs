//! A real S3 server that dies, or behind a proxy that makes it slow, unwilling, forgetful or a liar.
//!
//! The application commits on as if nothing were, the status names the reason, and when it is over the replica is what
//! the source is.

use std::time::Duration;

use replicate_sim::peers::Outcome;
use replicate_sim::servers::VersityGw;

use crate::chain::Shape;
use crate::child::{Child, SOON};
use crate::ground::{Ground, on_s3};
use crate::proxy::{Faults, Proxy};
use crate::{Size, Torture};

/// How long the status may take to tell of a fault: requests have patience of their own.
const TELL: Duration = Duration::from_secs(60);

/// Kinds of errors of a restore that the server's fault is the reason of.
const REASONS: [&str; 3] = ["UNAVAILABLE: ", "TIMEOUT: ", "DENIED: "];

/// One kind of failure.
struct Fault {
    name: &'static str,
    /// What is in the error of the status, if the status must tell.
    told: Option<&'static str>,
    /// It only takes longer; requests must meet every other.
    harmless: bool,
    faults: fn() -> Faults,
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "503 storm",
        told: Some("SlowDown"),
        harmless: false,
        faults: || Faults { refuse: Some((503, "SlowDown", 100)), ..Faults::default() },
    },
    Fault {
        name: "403 from now on",
        told: Some("Denied"),
        harmless: false,
        faults: || Faults { refuse: Some((403, "AccessDenied", 100)), ..Faults::default() },
    },
    Fault {
        name: "PUT cut",
        told: Some(""),
        harmless: false,
        faults: || Faults { cut_put: Some((100, 100)), ..Faults::default() },
    },
    Fault {
        name: "answers lost",
        told: None,
        harmless: false,
        faults: || Faults { lose_answers: 50, ..Faults::default() },
    },
    Fault {
        name: "20 ms",
        told: None,
        harmless: true,
        faults: || Faults { delay: Duration::from_millis(20), ..Faults::default() },
    },
    Fault {
        name: "GET cut",
        told: None,
        harmless: false,
        faults: || Faults { cut_get: Some((300, 50)), ..Faults::default() },
    },
    Fault {
        name: "503 for half",
        told: None,
        harmless: false,
        faults: || Faults { refuse: Some((503, "SlowDown", 50)), ..Faults::default() },
    },
    Fault {
        name: "500 for half",
        told: None,
        harmless: false,
        faults: || Faults { refuse: Some((500, "InternalError", 50)), ..Faults::default() },
    },
    Fault {
        name: "200 ms",
        told: None,
        harmless: true,
        faults: || Faults { delay: Duration::from_millis(200), ..Faults::default() },
    },
    Fault {
        name: "64 KiB a second",
        told: None,
        harmless: true,
        faults: || Faults { rate: Some(64 << 10), ..Faults::default() },
    },
    Fault {
        name: "deletes that are lies",
        told: None,
        harmless: true,
        faults: || Faults { lie_about_deletes: true, ..Faults::default() },
    },
    Fault { name: "no answers", told: None, harmless: false, faults: || Faults { hang: true, ..Faults::default() } },
];

pub(crate) fn run(torture: &mut Torture) -> Outcome<String> {
    let mut server = VersityGw::start();
    server.create_bucket("bucket");
    let proxy = Proxy::start(&server.endpoint(), torture.rng.bits())?;
    let place = torture.place("ground")?;
    let ground = Ground::create(&place, on_s3(&proxy.endpoint(), "bucket", "app"), Shape::default())?
        .with("sync_interval", "20ms")
        .with("checkpoint_pages", "64");
    let mut told = Vec::new();
    let quick = torture.size == Size::Quick;
    for (at, fault) in FAULTS.iter().enumerate().filter(|(at, _)| !quick || *at < 4) {
        let kill = torture.rng.percent(25);
        let step = Step { ground: &ground, proxy: &proxy, seed: at as u64, kill };
        let felt = step.run(fault).map_err(|why| format!("{}, engine killed {kill}: {why}", fault.name))?;
        told.push(format!("{}{felt}", fault.name));
    }
    let felt = dead(&ground, &mut server).map_err(|why| format!("killed and started again: {why}"))?;
    told.push(format!("killed and started again{felt}"));
    Ok(format!("{} requests: {}", proxy.requests(), told.join(", ")))
}

struct Step<'a> {
    ground: &'a Ground,
    proxy: &'a Proxy,
    seed: u64,
    kill: bool,
}

impl Step<'_> {
    fn run(&self, fault: &Fault) -> Outcome<String> {
        let (ground, proxy) = (self.ground, self.proxy);
        let mut engine = ground.start("engine", &ground.engine(self.seed))?;
        let mut host = start_host(ground, self.seed)?;
        host.goes_on(20)?;
        proxy.set((fault.faults)());
        if let Some(text) = fault.told {
            engine.until("the status names the reason", TELL, |status| {
                status["state"] == "stalled" && status["error"].as_str().is_some_and(|error| error.contains(text))
            })?;
        }
        host.goes_on(100)?;
        self.look(fault)?;
        if !fault.harmless {
            engine.until("a request meets the fault", TELL, |_| proxy.met() > 0)?;
        }
        if self.kill {
            engine.kill()?;
            engine = ground.start("engine", &ground.engine(self.seed + 100))?;
            host.goes_on(20)?;
        }
        let met = proxy.met();
        proxy.set(Faults::default());
        let felt = finish(ground, host, engine)?;
        Ok(format!(" (met {met}, {felt})"))
    }

    /// A restore that runs into the fault says so, or brings back what was acknowledged; the rest is a beginning.
    fn look(&self, fault: &Fault) -> Outcome {
        let acknowledged = self.ground.acknowledged();
        if self.proxy.hangs() {
            return Ok(());
        }
        match self.ground.restored(None) {
            Ok(found) => found.begins(&self.ground.source(true)?, acknowledged),
            Err(why) if !fault.harmless && REASONS.iter().any(|reason| why.contains(reason)) => Ok(()),
            Err(why) => Err(format!("a restore meanwhile: {why}")),
        }
    }
}

fn start_host(ground: &Ground, seed: u64) -> Outcome<Child> {
    ground.start("host", &ground.application(seed, vec![ground.writing(1), ground.writing(2)]))
}

/// The server itself is gone.
fn dead(ground: &Ground, server: &mut VersityGw) -> Outcome<String> {
    let mut engine = ground.start("engine", &ground.engine(77))?;
    let mut host = start_host(ground, 77)?;
    host.goes_on(20)?;
    server.kill();
    engine.until("the status names the reason", TELL, |status| {
        status["state"] == "stalled" && !status["error"].is_null()
    })?;
    host.goes_on(100)?;
    server.restart();
    let felt = finish(ground, host, engine)?;
    Ok(format!(" ({felt})"))
}

/// It is over: everything arrives.
fn finish(ground: &Ground, mut host: Child, mut engine: Child) -> Outcome<String> {
    let felt = host.ask("quiet", SOON)?;
    engine.sync()?;
    let status = engine.status()?;
    if status["state"] != "streaming" || !status["error"].is_null() {
        return Err(format!("not well afterwards: {status}"));
    }
    ground.must_equal(&ground.source(true)?, "afterwards")?;
    host.stop()?;
    engine.stop()?;
    Ok(format!("slowest commit {} ms", felt["slowest_us"].as_u64().unwrap_or(0) / 1000))
}
