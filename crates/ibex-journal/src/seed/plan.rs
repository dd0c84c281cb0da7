//! What the demonstration site contains, as data: people, friendships, communities, entries, comments.
//!
//! A plan is a function of its [`Size`] and nothing else: no clock, no database, no global randomness. Whoever applies it decides the present moment (times in the
//! plan are ages) and gives out the numbers. Shapes follow what such sites show: friend counts are log-normal, popularity and productivity follow Zipf's law, thread depths are geometric.

use std::collections::BTreeSet;
use std::time::Duration;

use ibex_base::rng::Rng;

use super::corpus::{self, Paragraph};

/// How far back entries reach.
const SPAN: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Comments under one entry at most; a geometric law rarely gets there.
const COMMENTS_PER_ENTRY_MAX: u64 = 60;
/// One community for this many people.
const PEOPLE_PER_COMMUNITY: usize = 40;
/// People in the circle of anyone at most.
const FRIENDS_MAX: usize = 300;

/// First halves of user names.
const ADJECTIVES: [&str; 40] = [
    "amber",
    "brisk",
    "calm",
    "curious",
    "dusty",
    "early",
    "faint",
    "gentle",
    "golden",
    "grey",
    "hidden",
    "idle",
    "jolly",
    "keen",
    "late",
    "lively",
    "mellow",
    "misty",
    "mossy",
    "narrow",
    "odd",
    "pale",
    "patient",
    "plain",
    "quiet",
    "rainy",
    "restless",
    "rusty",
    "salty",
    "silent",
    "silver",
    "sleepy",
    "slow",
    "sunny",
    "tidy",
    "velvet",
    "wandering",
    "wild",
    "windy",
    "winter",
];
/// Second halves of user names.
const NOUNS: [&str; 40] = [
    "acorn", "attic", "badger", "beacon", "birch", "bramble", "brook", "candle", "cedar", "comet",
    "compass", "cricket", "ember", "fern", "ferry", "finch", "garden", "harbor", "heron", "ibex",
    "ink", "juniper", "kettle", "lantern", "lark", "maple", "meadow", "moth", "otter", "pebble",
    "quill", "raven", "river", "sparrow", "thicket", "thistle", "tide", "violet", "willow", "wren",
];
/// Interests and tags.
const TOPICS: [&str; 30] = [
    "astronomy",
    "baking",
    "bicycles",
    "birds",
    "books",
    "chess",
    "cinema",
    "coffee",
    "cooking",
    "dreams",
    "drawing",
    "gardens",
    "history",
    "languages",
    "letters",
    "maps",
    "mathematics",
    "mountains",
    "music",
    "night",
    "old things",
    "photography",
    "poetry",
    "rain",
    "rivers",
    "sailing",
    "tea",
    "trains",
    "walking",
    "weather",
];
/// Moods of entries.
const MOODS: [&str; 16] = [
    "amused",
    "awake",
    "calm",
    "cheerful",
    "contemplative",
    "cold",
    "curious",
    "dreamy",
    "grateful",
    "hopeful",
    "hungry",
    "nostalgic",
    "restless",
    "sleepy",
    "thoughtful",
    "working",
];
/// Short answers for comments; longer ones come from the corpus.
const REMARKS: [&str; 24] = [
    "I had not thought of it that way.",
    "Yes! Exactly this.",
    "Where did you find it?",
    "I read that book every winter.",
    "This made my morning, thank you.",
    "I am not sure I agree, but it is well put.",
    "Same here, since last week.",
    "Tell us more when you know how it ended.",
    "My grandmother used to say the opposite.",
    "The second sentence is the one I will remember.",
    "You should come and see it in October.",
    "How was the weather there?",
    "I tried it once and never again.",
    "Saving this one.",
    "That is a good question.",
    "I laughed out loud on the train.",
    "Do you still have the photograph?",
    "Count me in.",
    "We need more entries like this.",
    "It is quieter than it used to be, though.",
    "I would have taken the other road.",
    "Happy to lend you my copy.",
    "So that is where it went.",
    "Good night, and sleep well.",
];

/// How much of everything, and which of all possible sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// People, at least 1.
    pub people: usize,
    /// Entries in all.
    pub entries: usize,
    /// The same seed gives the same site.
    pub seed: u64,
}

/// A person. Others refer to people by their index in [`Plan::people`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// User name: 1–25 of `a-z`, `0-9`, `_`; unique in the plan.
    pub name: String,
    /// Name shown on pages.
    pub title: String,
    /// A few words about themselves.
    pub bio: String,
    /// What they like.
    pub interests: Vec<&'static str>,
    /// Whom they read and trust, by index, without themselves.
    pub friends: Vec<usize>,
    /// How long ago they joined.
    pub joined: Duration,
    /// Seed of their picture.
    pub picture: u64,
}

/// A journal that many people write in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Community {
    /// Its name, unlike every person's.
    pub name: String,
    /// Name shown on pages.
    pub title: String,
    /// Who maintains it.
    pub owner: usize,
    /// Who belongs to it, owner included.
    pub members: Vec<usize>,
}

/// Who may read an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Everyone.
    Public,
    /// Whom the author trusts; in a community, its members.
    Friends,
    /// The author.
    Private,
}

/// Where an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In its author's own journal.
    Own,
    /// In this community, by its index in [`Plan::communities`].
    Community(usize),
}

/// An entry; the plan's entries are sorted from the oldest to the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who wrote it.
    pub author: usize,
    /// Where.
    pub place: Place,
    /// For whom.
    pub audience: Audience,
    /// How long ago.
    pub age: Duration,
    /// At most 100 characters.
    pub subject: String,
    /// Paragraphs, each in `<p>`, and the source of the words.
    pub body: String,
    /// A word for the writer's mood.
    pub mood: &'static str,
    /// What it is about.
    pub tags: Vec<&'static str>,
    /// Answers, each after the one it answers.
    pub comments: Vec<Comment>,
}

/// An answer to an entry or to another answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment {
    /// Who wrote it.
    pub author: usize,
    /// The comment it answers, by its index in [`Entry::comments`]; `None` answers the entry.
    pub parent: Option<usize>,
    /// How long ago; less than its parent's.
    pub age: Duration,
    /// Plain text.
    pub body: String,
}

/// A whole site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// People.
    pub people: Vec<Person>,
    /// Communities.
    pub communities: Vec<Community>,
    /// Entries, the oldest first.
    pub entries: Vec<Entry>,
}

impl Plan {
    /// The site of this size and seed.
    ///
    /// # Panics
    /// If `size.people` is 0.
    #[must_use]
    pub fn new(size: Size) -> Self {
        assert!(size.people > 0, "a site needs someone");
        let mut draft = Draft {
            rng: Rng::new(size.seed),
            corpus: corpus::paragraphs(),
            popularity: Zipf::new(size.people),
        };
        let people = draft.people(size.people);
        let communities = draft.communities(&people);
        let entries = draft.entries(size.entries, &people, &communities);
        Self {
            people,
            communities,
            entries,
        }
    }
}

/// The state of the drawing: one stream of random numbers through everything.
struct Draft {
    rng: Rng,
    corpus: Vec<Paragraph>,
    popularity: Zipf,
}

impl Draft {
    fn people(&mut self, count: usize) -> Vec<Person> {
        let mut names = BTreeSet::new();
        let mut people = Vec::with_capacity(count);
        for _ in 0..count {
            let (name, title) = self.name(&mut names);
            people.push(Person {
                title,
                bio: self.short_paragraph().text.to_owned(),
                interests: self.topics(6),
                friends: Vec::new(),
                joined: SPAN + self.share(SPAN * 24),
                picture: self.rng.next_u64(),
                name,
            });
        }
        for (index, person) in people.iter_mut().enumerate() {
            person.friends = self.friends(index, count);
        }
        people
    }

    fn name(&mut self, taken: &mut BTreeSet<String>) -> (String, String) {
        loop {
            let adjective = self.choose(&ADJECTIVES);
            let noun = self.choose(&NOUNS);
            let number = self.rng.below(100);
            let is_plain = self.rng.chance(1, 3);
            let name = if is_plain {
                format!("{adjective}_{noun}")
            } else {
                format!("{adjective}_{noun}{number}")
            };
            if taken.insert(name.clone()) {
                return (name, format!("the {adjective} {noun}"));
            }
        }
    }

    /// A log-normal number of others (median 12), the popular ones more often.
    fn friends(&mut self, index: usize, count: usize) -> Vec<usize> {
        let wanted = (12.0 * (0.8 * self.normal()).exp()).clamp(1.0, 300.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to 1..=300"
        )]
        let wanted = (wanted as usize).min(FRIENDS_MAX).min(count - 1);
        let mut friends = BTreeSet::new();
        let mut tries = 0;
        while friends.len() < wanted && tries < wanted * 20 {
            let other = self.popularity.draw(&mut self.rng);
            if other != index {
                friends.insert(other);
            }
            tries += 1;
        }
        friends.into_iter().collect()
    }

    fn communities(&mut self, people: &[Person]) -> Vec<Community> {
        let count = (people.len() / PEOPLE_PER_COMMUNITY).clamp(1, TOPICS.len());
        let mut topics = TOPICS.to_vec();
        self.rng.shuffle(&mut topics);
        topics
            .into_iter()
            .take(count)
            .map(|topic| {
                let owner = self.rng.index(people.len());
                let mut members: BTreeSet<usize> = (0..people.len())
                    .filter(|_| self.rng.chance(1, 6))
                    .collect();
                members.insert(owner);
                Community {
                    name: format!("{}_club", topic.replace(' ', "_")),
                    title: format!("All about {topic}"),
                    owner,
                    members: members.into_iter().collect(),
                }
            })
            .collect()
    }

    fn entries(
        &mut self,
        count: usize,
        people: &[Person],
        communities: &[Community],
    ) -> Vec<Entry> {
        let mut ages: Vec<Duration> = (0..count).map(|_| self.share(SPAN)).collect();
        ages.sort_unstable_by(|left, right| right.cmp(left));
        ages.into_iter()
            .map(|age| self.entry(age, people, communities))
            .collect()
    }

    fn entry(&mut self, age: Duration, people: &[Person], communities: &[Community]) -> Entry {
        let is_shared = self.rng.chance(1, 8);
        let (author, place) = if is_shared {
            let index = self.rng.index(communities.len());
            let members = &communities[index].members;
            (
                members[self.rng.index(members.len())],
                Place::Community(index),
            )
        } else {
            (self.popularity.draw(&mut self.rng), Place::Own)
        };
        let audience = match (self.rng.below(10), place) {
            (0, Place::Own) => Audience::Private,
            (0..=2, _) => Audience::Friends,
            _ => Audience::Public,
        };
        let (subject, body) = self.text();
        let comments = match audience {
            Audience::Private => Vec::new(),
            Audience::Public | Audience::Friends => self.comments(author, age, people),
        };
        let mood = self.choose(&MOODS);
        Entry {
            author,
            place,
            audience,
            age,
            subject,
            body,
            mood,
            tags: self.topics(3),
            comments,
        }
    }

    /// One to three paragraphs of one source, with the first words as the subject.
    fn text(&mut self) -> (String, String) {
        let start = self.rng.index(self.corpus.len());
        let source = self.corpus[start].source;
        let length = 1 + self.rng.index(3);
        let chosen: Vec<_> = self.corpus[start..]
            .iter()
            .take(length)
            .take_while(|next| next.source == source)
            .collect();
        let mut body: String = chosen
            .iter()
            .map(|paragraph| format!("<p>{}</p>\n", escape(paragraph.text)))
            .collect();
        body.push_str(&format!(
            "<p><cite>{}, {}, {}</cite></p>",
            escape(source.author),
            escape(source.title),
            source.year
        ));
        (
            subject_of(chosen.first().map_or("", |paragraph| paragraph.text)),
            body,
        )
    }

    /// Answers come from those who know the author, and from passers-by.
    fn comments(&mut self, author: usize, age: Duration, people: &[Person]) -> Vec<Comment> {
        let mut comments: Vec<Comment> = Vec::new();
        let mut count = 0;
        while count < COMMENTS_PER_ENTRY_MAX && self.rng.chance(3, 4) {
            count += 1;
        }
        for _ in 0..count {
            let parent = match comments.len() {
                0 => None,
                len => self.rng.chance(1, 2).then(|| self.rng.index(len)),
            };
            let before = parent.map_or(age, |parent| comments[parent].age);
            let friends = &people[author].friends;
            let writer = match self.rng.pick(friends) {
                Some(&friend) if self.rng.chance(3, 4) => friend,
                _ => self.rng.index(people.len()),
            };
            let age = self.share(before);
            let body = self.remark();
            comments.push(Comment {
                author: writer,
                parent,
                age,
                body,
            });
        }
        comments
    }

    fn remark(&mut self) -> String {
        if self.rng.chance(1, 4) {
            return self.short_paragraph().text.to_owned();
        }
        self.choose(&REMARKS).to_owned()
    }

    fn short_paragraph(&mut self) -> Paragraph {
        loop {
            let paragraph = self.corpus[self.rng.index(self.corpus.len())];
            if paragraph.text.len() <= 240 {
                return paragraph;
            }
        }
    }

    /// Up to `count_max` different topics, sorted.
    fn topics(&mut self, count_max: u64) -> Vec<&'static str> {
        let count = self.rng.below(count_max + 1);
        let chosen: BTreeSet<_> = (0..count).map(|_| self.choose(&TOPICS)).collect();
        chosen.into_iter().collect()
    }

    fn choose(&mut self, items: &[&'static str]) -> &'static str {
        items[self.rng.index(items.len())]
    }

    /// A uniformly distributed part of `whole`.
    fn share(&mut self, whole: Duration) -> Duration {
        whole.mul_f64(self.rng.fraction())
    }

    /// A standard normal number (Box–Muller).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.rng.fraction()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.rng.fraction()).cos()
    }
}

/// Zipf's law with exponent 0.8 over `0..count`: the first are the most popular.
struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    fn new(count: usize) -> Self {
        let mut sum = 0.0;
        let cumulative = (1..=count)
            .map(|rank| {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "a site has fewer than 2^52 people"
                )]
                let rank = rank as f64;
                sum += rank.powf(-0.8);
                sum
            })
            .collect();
        Self { cumulative }
    }

    fn draw(&self, rng: &mut Rng) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(0.0);
        let target = rng.fraction() * total;
        self.cumulative
            .partition_point(|&sum| sum <= target)
            .min(self.cumulative.len() - 1)
    }
}

/// The first words, at most 60 bytes of them, without quotation marks.
fn subject_of(text: &str) -> String {
    let mut subject = String::new();
    for word in text.split_whitespace() {
        if subject.len() + word.len() > 60 {
            break;
        }
        if !subject.is_empty() {
            subject.push(' ');
        }
        subject.push_str(word.trim_matches('"'));
        if word.ends_with(['.', '?', '!', ';', ':']) {
            break;
        }
    }
    subject.trim_end_matches([',', ';', ':']).to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        people: 200,
        entries: 1_000,
        seed: 7,
    };

    #[test]
    fn the_same_seed_gives_the_same_site() {
        assert_eq!(Plan::new(SIZE), Plan::new(SIZE));
        assert_ne!(
            Plan::new(SIZE).people,
            Plan::new(Size { seed: 8, ..SIZE }).people
        );
    }

    #[test]
    fn everything_refers_to_something_that_exists() {
        let plan = Plan::new(SIZE);
        assert_eq!((plan.people.len(), plan.entries.len()), (200, 1_000));
        for (index, person) in plan.people.iter().enumerate() {
            let is_valid =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(
                person.name.len() <= 25 && person.name.bytes().all(is_valid),
                "{}",
                person.name
            );
            assert!(
                person
                    .friends
                    .iter()
                    .all(|&friend| friend < 200 && friend != index)
            );
        }
        for entry in &plan.entries {
            assert!(!entry.subject.is_empty() && entry.subject.chars().count() <= 100);
            if let Place::Community(index) = entry.place {
                assert!(plan.communities[index].members.contains(&entry.author));
            }
            for (index, comment) in entry.comments.iter().enumerate() {
                assert!(comment.author < 200 && comment.age <= entry.age);
                assert!(comment.parent.is_none_or(|parent| parent < index));
            }
        }
        assert!(
            plan.entries
                .windows(2)
                .all(|pair| pair[0].age >= pair[1].age)
        );
    }

    #[test]
    fn all_audiences_and_places_occur() {
        let plan = Plan::new(SIZE);
        let count = |wanted| {
            plan.entries
                .iter()
                .filter(|entry| entry.audience == wanted)
                .count()
        };
        assert!(count(Audience::Public) > 500);
        assert!(count(Audience::Friends) > 100);
        assert!(count(Audience::Private) > 40);
        assert!(plan.entries.iter().any(|entry| entry.place != Place::Own));
        let comments: usize = plan.entries.iter().map(|entry| entry.comments.len()).sum();
        assert!((1_500..4_500).contains(&comments), "{comments}");
    }

    #[test]
    fn one_person_is_a_site() {
        let plan = Plan::new(Size {
            people: 1,
            entries: 5,
            seed: 1,
        });
        assert!(plan.people[0].friends.is_empty());
        assert!(plan.entries.iter().all(|entry| entry.author == 0));
    }
}
