//! Random SQL, as text, so that a failure can be read and run again.

/// A reproducible source of numbers (xorshift64*).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.bits() >> 11) % bound
    }

    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Tables and what makes them. `a` is small rows with an index, `b` large values, `c` no row ids.
const TABLES: [(&str, &str); 3] = [
    ("a", "CREATE TABLE IF NOT EXISTS a (id INTEGER PRIMARY KEY, v BLOB, w TEXT);"),
    ("b", "CREATE TABLE IF NOT EXISTS b (id INTEGER PRIMARY KEY, v BLOB, w TEXT);"),
    ("c", "CREATE TABLE IF NOT EXISTS c (id INTEGER PRIMARY KEY, v BLOB, w TEXT) WITHOUT ROWID;"),
];

/// What makes the tables.
pub fn tables() -> String {
    TABLES.iter().map(|(_, create)| *create).collect::<String>() + "CREATE INDEX IF NOT EXISTS ia ON a (w);"
}

/// A value of about so many bytes: the same byte, a text that repeats, or chance.
fn value(rng: &mut Rng, len: u64) -> String {
    match rng.below(4) {
        0 => format!("zeroblob({len})"),
        1 => format!("CAST(replace(hex(zeroblob({})), '00', '{:016x}') AS BLOB)", len / 16 + 1, rng.bits()),
        _ => format!("randomblob({len})"),
    }
}

/// A length: mostly small, some that need overflow pages, few that need many.
fn length(rng: &mut Rng) -> u64 {
    match rng.below(20) {
        0 => rng.between(20_000, 200_000),
        1..=3 => rng.between(1000, 20_000),
        4..=6 => rng.between(200, 2000),
        _ => rng.below(200),
    }
}

/// A statement that changes rows or tables; any number of them may be in one transaction.
pub fn change(rng: &mut Rng) -> String {
    let (table, create) = rng.pick(&TABLES);
    let (id, w) = (rng.below(400), rng.bits() >> 40);
    match rng.below(24) {
        0..=6 => {
            let len = length(rng);
            format!("INSERT OR REPLACE INTO {table} VALUES ({id}, {}, 'w{w:x}');", value(rng, len))
        }
        7..=9 => {
            let (count, len) = (rng.between(2, 120), rng.below(400));
            format!(
                "INSERT OR REPLACE INTO {table} WITH RECURSIVE n(i) AS (SELECT {id} UNION ALL SELECT i + 1 FROM n \
                 LIMIT {count}) SELECT i, {}, 'w' || (i * {w} % 997) FROM n;",
                value(rng, len)
            )
        }
        10..=12 => format!("UPDATE {table} SET w = 'u{w:x}' || id WHERE id % {} = 0;", rng.between(2, 40)),
        13 | 14 => {
            let len = length(rng);
            format!("UPDATE {table} SET v = {} WHERE id BETWEEN {id} AND {id} + {};", value(rng, len), rng.below(9))
        }
        15..=17 => format!("DELETE FROM {table} WHERE id BETWEEN {id} AND {id} + {};", rng.below(150)),
        18 => format!("CREATE INDEX IF NOT EXISTS i{table}v ON {table} (w, length(v));"),
        19 => format!("DROP INDEX IF EXISTS i{table}v;"),
        20 => format!("DROP TABLE IF EXISTS {table}; {create}"),
        21 => format!("PRAGMA user_version = {};", w & 0xffff),
        22 => rng.pick(&["REINDEX;", "ANALYZE;"]).to_owned(),
        _ => {
            let undo = rng.pick(&["ROLLBACK TO s; RELEASE s;", "RELEASE s;"]);
            format!("SAVEPOINT s; {} {} {undo}", change(rng), change(rng))
        }
    }
}

/// So many changes.
pub fn changes(rng: &mut Rng, most: u64) -> String {
    (0..rng.between(1, most)).map(|_| change(rng) + " ").collect()
}

/// A whole transaction, one commit at most.
pub fn transaction(rng: &mut Rng) -> String {
    match rng.below(20) {
        0 => "VACUUM".to_owned(),
        1 => format!("PRAGMA incremental_vacuum({})", rng.between(1, 40)),
        2 => format!("BEGIN IMMEDIATE; {}ROLLBACK", changes(rng, 8)),
        3 => format!("BEGIN IMMEDIATE; {}COMMIT", changes(rng, 60)),
        _ => format!("BEGIN IMMEDIATE; {}COMMIT", changes(rng, 5)),
    }
}

/// A setting of one connection, without a commit.
pub fn setting(rng: &mut Rng) -> String {
    match rng.below(6) {
        0 => format!("PRAGMA wal_autocheckpoint = {}", rng.pick(&[0, 1, 5, 50, 1000])),
        1 => format!("PRAGMA journal_size_limit = {}", rng.pick(&[-1, 0, 20_000])),
        // Large transactions write frames before they commit, and write some of them again.
        2 | 3 => format!("PRAGMA cache_size = {}", rng.pick(&[1, 10, 10, 2000])),
        4 => format!("PRAGMA synchronous = {}", rng.pick(&["OFF", "NORMAL", "FULL"])),
        _ => format!("PRAGMA secure_delete = {}", rng.pick(&["ON", "OFF"])),
    }
}

/// A checkpoint of any kind.
pub fn checkpoint(rng: &mut Rng) -> String {
    format!("PRAGMA wal_checkpoint({})", rng.pick(&["PASSIVE", "FULL", "RESTART", "TRUNCATE", "TRUNCATE"]))
}

/// What needs the database for itself: WAL mode is left, and entered again or not; the page size may change.
pub fn alone(rng: &mut Rng) -> String {
    let mode = rng.pick(&["DELETE", "DELETE", "TRUNCATE", "PERSIST"]);
    let mut text = format!("PRAGMA journal_mode = {mode}; ");
    if rng.percent(60) {
        let (size, vacuum) = (rng.pick(&SIZES), rng.pick(&["NONE", "FULL", "INCREMENTAL"]));
        text += &format!("PRAGMA page_size = {size}; PRAGMA auto_vacuum = {vacuum}; VACUUM; ");
    }
    if rng.percent(60) {
        text += &format!("BEGIN; {}COMMIT; ", changes(rng, 6));
    }
    if rng.percent(60) {
        text += "PRAGMA journal_mode = WAL; ";
        if rng.percent(50) {
            text += &format!("BEGIN; {}COMMIT; ", changes(rng, 6));
        }
    }
    text
}

/// Page sizes: the smallest, the usual one, the largest.
pub const SIZES: [u32; 4] = [512, 4096, 4096, 65536];
