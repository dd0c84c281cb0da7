//! The site in memory: who exists, who knows whom, who wrote what when. Pure: plan and time in, rows out.
//!
//! Apart from the writing. Everything is drawn from one seeded generator in a fixed order, so the same plan makes the same site.

use super::Plan;
use super::words;
use ibex_base::rng::Rng;
use ibex_cluster::UserId;
use ibex_sql::{Value, params};
use std::collections::{BTreeMap, BTreeSet};

const CORPUS: &str = include_str!("corpus.txt");
/// Entries lie in this much time before now; newer ones are more likely.
const DAYS: u64 = 60;
const DAY: u64 = 86_400;
/// As `entry` has it: newest first is an ascending index on the rest.
const END_OF_TIME: i64 = 1 << 62;

/// An account to be.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) display: String,
    pub(super) bio: &'static str,
    pub(super) is_community: bool,
    pub(super) created: i64,
}

impl Account {
    pub(super) fn email(&self) -> String {
        if self.is_community {
            String::new()
        } else {
            format!("{}@journal.example", self.name)
        }
    }
}

/// An entry to be, with its comments.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) journal: usize,
    poster: usize,
    time: i64,
    security: (i64, i64),
    anum: i64,
    subject: &'static str,
    body: String,
    props: Vec<(&'static str, &'static str)>,
    tags: BTreeSet<&'static str>,
    comments: Vec<Comment>,
}

/// A comment to be; the parent is an index into its entry's comments.
#[derive(Debug)]
struct Comment {
    poster: usize,
    parent: Option<usize>,
    time: i64,
    body: String,
}

/// The whole site.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) accounts: Vec<Account>,
    /// From, to.
    pub(super) friends: BTreeSet<(usize, usize)>,
    /// Community, member.
    pub(super) members: BTreeSet<(usize, usize)>,
    /// Community, administrator.
    pub(super) owners: Vec<(usize, usize)>,
    pub(super) entries: Vec<Entry>,
}

/// Draws the site.
pub(super) fn site(plan: &Plan, now: i64) -> Made {
    let mut rng = Rng::new(plan.seed);
    let people = usize::try_from(plan.users).unwrap_or(usize::MAX);
    let mut accounts = people_of(&mut rng, people, now);
    let communities = (people / 40).clamp(2, words::COMMUNITIES.len());
    for (name, display) in words::COMMUNITIES.iter().take(communities) {
        accounts.push(Account {
            name: (*name).to_owned(),
            display: (*display).to_owned(),
            bio: display,
            is_community: true,
            created: now - 90 * 86_400,
        });
    }
    let friends = friendships(&mut rng, people);
    let (mut members, mut owners) = (BTreeSet::new(), Vec::new());
    for community in people..accounts.len() {
        let owner = rng.index(people);
        owners.push((community, owner));
        members.insert((community, owner));
        for _ in 0..people / 6 {
            members.insert((community, rng.index(people)));
        }
    }
    // The first account is the tour's: everything can be seen from it.
    for (community, _) in &owners {
        members.insert((*community, 0));
    }
    let mut made = Made {
        accounts,
        friends,
        members,
        owners,
        entries: Vec::new(),
    };
    made.entries = entries(&mut rng, plan, &made, people, now);
    made
}

fn people_of(rng: &mut Rng, people: usize, now: i64) -> Vec<Account> {
    let mut names = BTreeSet::new();
    let mut accounts = Vec::with_capacity(people);
    while accounts.len() < people {
        let (first, second) = (word(rng, words::FIRST), word(rng, words::SECOND));
        let mut name = format!("{first}{second}");
        if names.contains(&name) {
            name = format!("{name}{}", rng.below(9000) + 10);
        }
        if name.len() > 25 || !names.insert(name.clone()) {
            continue;
        }
        let display = format!("{} {}", word(rng, words::GIVEN), capital(second));
        let created = now - 86_400 * 70 - i64::try_from(rng.below(86_400 * 600)).unwrap_or(0);
        accounts.push(Account {
            name,
            display,
            bio: word(rng, words::BIOS),
            is_community: false,
            created,
        });
    }
    accounts
}

fn word(rng: &mut Rng, list: &'static [&'static str]) -> &'static str {
    rng.pick(list).copied().unwrap_or_default()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

/// Somebody, the earlier the likelier: the rank is the cube of a fraction.
fn popular(rng: &mut Rng, count: usize) -> usize {
    let fraction = u128::from(rng.below(1 << 16));
    let rank = (fraction * fraction * fraction * count as u128) >> 48;
    usize::try_from(rank)
        .unwrap_or(0)
        .min(count.saturating_sub(1))
}

/// Friends one adds: twentieths of a log-normal distribution with median 12, and what lies between two of them.
const CIRCLES: [u64; 21] = [
    2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 21, 25, 30, 37, 48, 70, 150,
];

fn circle_size(rng: &mut Rng) -> usize {
    let step = rng.index(CIRCLES.len() - 1);
    let (low, high) = (CIRCLES[step], CIRCLES[step + 1]);
    usize::try_from(low + rng.below(high - low)).unwrap_or(2)
}

fn friendships(rng: &mut Rng, people: usize) -> BTreeSet<(usize, usize)> {
    let mut friends = BTreeSet::new();
    for from in 0..people {
        let wanted = if from == 0 { 40 } else { circle_size(rng) }.min(people - 1);
        for _ in 0..wanted {
            let to = popular(rng, people);
            if to != from {
                friends.insert((from, to));
                // Three in four are mutual.
                if rng.chance(3, 4) {
                    friends.insert((to, from));
                }
            }
        }
    }
    friends
}

fn passages() -> Vec<&'static str> {
    CORPUS
        .split("\n\n")
        .map(str::trim)
        .filter(|passage| !passage.is_empty())
        .collect()
}

fn entries(rng: &mut Rng, plan: &Plan, made: &Made, people: usize, now: i64) -> Vec<Entry> {
    let passages = passages();
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (community, member) in &made.members {
        members.entry(*community).or_default().push(*member);
    }
    let mut out = Vec::new();
    for _ in 0..plan.entries {
        let is_community = rng.chance(1, 12);
        let (journal, poster) = if is_community {
            let community = people + rng.index(made.accounts.len() - people);
            let poster = members
                .get(&community)
                .and_then(|list| rng.pick(list).copied())
                .unwrap_or(0);
            (community, poster)
        } else {
            let poster = popular(rng, people);
            (poster, poster)
        };
        // Two in three within a fortnight, which is how far a friends page looks.
        let age = if rng.chance(2, 3) {
            rng.below(14 * DAY)
        } else {
            rng.below(DAYS * DAY)
        };
        let time = now - 60 - i64::try_from(age).unwrap_or(0);
        out.push(entry(rng, &passages, journal, poster, time));
    }
    // In order of time, as they would have been numbered.
    out.sort_by_key(|entry| (entry.time, entry.journal, entry.poster));
    for entry in &mut out {
        comments(rng, made, &passages, entry, people, now);
    }
    out
}

fn entry(
    rng: &mut Rng,
    passages: &[&'static str],
    journal: usize,
    poster: usize,
    time: i64,
) -> Entry {
    let security = match (journal == poster, rng.below(20)) {
        (true, 0) => (1, 0),
        (true, 1..=4) | (false, 0..=2) => (2, 1),
        _ => (0, 0),
    };
    let mut body = String::new();
    if rng.chance(2, 3) {
        body.push_str(word(rng, words::OPENINGS));
        body.push_str("\n\n");
    }
    body.push_str("<blockquote>");
    body.push_str(rng.pick(passages).copied().unwrap_or_default());
    body.push_str("</blockquote>");
    if rng.chance(1, 5) {
        body.push_str(&format!(
            "\n<cut text=\"and then\"><blockquote>{}</blockquote></cut>",
            rng.pick(passages).copied().unwrap_or_default()
        ));
    }
    if rng.chance(1, 2) {
        body.push('\n');
        body.push_str(word(rng, words::CLOSINGS));
    }
    let mut props = Vec::new();
    for (name, list, part) in [
        ("current_mood", words::MOODS, 2),
        ("current_music", words::MUSIC, 4),
        ("current_location", words::PLACES, 5),
    ] {
        if rng.chance(1, part) {
            props.push((name, word(rng, list)));
        }
    }
    let tags = (0..rng.below(4)).map(|_| word(rng, words::TAGS)).collect();
    let subject = if rng.chance(1, 12) {
        ""
    } else {
        word(rng, words::SUBJECTS)
    };
    let anum = i64::try_from(rng.below(256)).unwrap_or(0);
    Entry {
        journal,
        poster,
        time,
        security,
        anum,
        subject,
        body,
        props,
        tags,
        comments: Vec::new(),
    }
}

/// Comments by those who may see the entry; geometric in number and depth.
fn comments(
    rng: &mut Rng,
    made: &Made,
    passages: &[&'static str],
    entry: &mut Entry,
    people: usize,
    now: i64,
) {
    if entry.security.0 == 1 {
        return;
    }
    let readers: Vec<usize> = (0..12)
        .map(|_| popular(rng, people))
        .filter(|reader| {
            entry.security.0 == 0
                || made.friends.contains(&(entry.journal, *reader))
                || made.members.contains(&(entry.journal, *reader))
        })
        .collect();
    let mut time = entry.time;
    while !readers.is_empty() && entry.comments.len() < 60 && rng.chance(7, 9) {
        let parent = if !entry.comments.is_empty() && rng.chance(3, 5) {
            Some(entry.comments.len() - 1 - rng.index(entry.comments.len().min(4)))
        } else {
            None
        };
        let answers_author = parent.is_some_and(|parent| {
            entry
                .comments
                .get(parent)
                .is_some_and(|comment| comment.poster != entry.poster)
        });
        let poster = if answers_author && rng.chance(1, 2) {
            entry.poster
        } else {
            rng.pick(&readers).copied().unwrap_or(0)
        };
        time = (time + 60 + i64::try_from(rng.below(7200)).unwrap_or(0)).min(now);
        let mut remark = word(rng, words::REMARKS);
        for _ in 0..4 {
            // Nobody says what was said just above.
            if entry
                .comments
                .iter()
                .any(|comment| comment.body.starts_with(remark))
            {
                remark = word(rng, words::REMARKS);
            }
        }
        let body = match rng.below(5) {
            0 => format!("{remark}\n\n<i>{}</i>", short(rng, passages)),
            _ => remark.to_owned(),
        };
        entry.comments.push(Comment {
            poster,
            parent,
            time,
            body,
        });
    }
}

fn short(rng: &mut Rng, passages: &[&'static str]) -> &'static str {
    (0..8)
        .filter_map(|_| rng.pick(passages).copied())
        .min_by_key(|passage| passage.len())
        .unwrap_or_default()
}

/// Rows of one table of one journal.
#[derive(Debug)]
pub(super) struct TableRows {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
    pub(super) keys: Vec<Vec<Value>>,
    pub(super) sets: Vec<Vec<Value>>,
}

/// All rows of one journal.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) entries: u32,
    pub(super) comments: usize,
    /// Time of each entry, and whether everybody may see it.
    pub(super) updates: Vec<(i64, bool)>,
    pub(super) tables: Vec<TableRows>,
}

fn table(name: &'static str, sql: &'static str) -> TableRows {
    TableRows {
        name,
        sql,
        keys: Vec::new(),
        sets: Vec::new(),
    }
}

impl TableRows {
    fn add(&mut self, key: Vec<Value>, set: Vec<Value>) {
        self.keys.push(key);
        self.sets.push(set);
    }
}

/// Rows of the entries of one journal, numbered from 1 in order of time.
pub(super) fn rows(made: &Made, ids: &[UserId], journal: usize, entries: &[usize]) -> Rows {
    let id = |index: usize| ids.get(index).copied().unwrap_or(UserId(0));
    let owner = id(journal);
    let mut log = table(
        "log",
        "INSERT INTO log (journalid, jitemid, posterid, eventtime, logtime, security, allowmask, anum, rlogtime, revttime, replycount, edittime) \
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    );
    let mut text = table(
        "logtext",
        "INSERT INTO logtext (journalid, jitemid, subject, body) VALUES (?, ?, ?, ?)",
    );
    let mut prop = table(
        "logprop",
        "INSERT INTO logprop (journalid, jitemid, name, value) VALUES (?, ?, ?, ?)",
    );
    let mut tag = table(
        "logtag",
        "INSERT INTO logtag (journalid, jitemid, tag) VALUES (?, ?, ?)",
    );
    let mut talk = table(
        "talk",
        "INSERT INTO talk (journalid, jtalkid, jitemid, parent, posterid, posttime, state) VALUES (?, ?, ?, ?, ?, ?, 'A')",
    );
    let mut talktext = table(
        "talktext",
        "INSERT INTO talktext (journalid, jtalkid, subject, body) VALUES (?, ?, '', ?)",
    );
    let (mut jitemid, mut jtalkid, mut updates) = (0_i64, 0_i64, Vec::new());
    for entry in entries.iter().filter_map(|index| made.entries.get(*index)) {
        jitemid += 1;
        let (security, mask) = entry.security;
        let replies = i64::try_from(entry.comments.len()).unwrap_or(0);
        let rest = END_OF_TIME - entry.time;
        log.add(
            params![jitemid],
            params![
                owner,
                jitemid,
                id(entry.poster),
                entry.time,
                entry.time,
                security,
                mask,
                entry.anum,
                rest,
                rest,
                replies,
                entry.time
            ],
        );
        text.add(
            params![jitemid],
            params![owner, jitemid, entry.subject, entry.body.clone()],
        );
        for (name, value) in &entry.props {
            prop.add(
                params![jitemid, *name],
                params![owner, jitemid, *name, *value],
            );
        }
        for word in &entry.tags {
            tag.add(params![jitemid, *word], params![owner, jitemid, *word]);
        }
        let before = jtalkid;
        for comment in &entry.comments {
            jtalkid += 1;
            let parent = comment
                .parent
                .and_then(|parent| i64::try_from(parent).ok())
                .map_or(0, |parent| before + parent + 1);
            talk.add(
                params![jtalkid],
                params![
                    owner,
                    jtalkid,
                    jitemid,
                    parent,
                    id(comment.poster),
                    comment.time
                ],
            );
            talktext.add(
                params![jtalkid],
                params![owner, jtalkid, comment.body.clone()],
            );
        }
        updates.push((entry.time, security == 0));
    }
    Rows {
        entries: u32::try_from(jitemid).unwrap_or(0),
        comments: usize::try_from(jtalkid).unwrap_or(0),
        updates,
        tables: vec![log, text, prop, tag, talk, talktext],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Plan {
        Plan {
            users: 60,
            entries: 300,
            seed,
            password: String::new(),
            pictures: 0,
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_site() {
        let print = |seed| format!("{:?}", site(&plan(seed), 1_700_000_000));
        assert_eq!(print(7), print(7));
        assert_ne!(print(7), print(8));
    }

    #[test]
    fn nobody_comments_on_what_he_may_not_see() {
        let made = site(&plan(1), 1_700_000_000);
        assert_eq!(made.entries.len(), 300);
        for entry in &made.entries {
            for comment in &entry.comments {
                let sees = match entry.security.0 {
                    0 => true,
                    2 => {
                        comment.poster == entry.poster
                            || made.friends.contains(&(entry.journal, comment.poster))
                            || made.members.contains(&(entry.journal, comment.poster))
                    }
                    _ => false,
                };
                assert!(sees, "{entry:?}");
            }
        }
        assert!(
            made.entries
                .iter()
                .map(|entry| entry.comments.len())
                .sum::<usize>()
                > 300
        );
        assert!(passages().len() > 60);
    }
}
