//! Words the generator joins: names, subjects, moods, places, short remarks.
//!
//! Apart because it is data. The passages themselves are in `corpus.txt`, their sources in `SOURCES.md`.

/// First halves of names.
pub(super) const FIRST: &[&str] = &[
    "amber", "ash", "birch", "brook", "cedar", "cinder", "clover", "copper", "coral", "dapple",
    "dusk", "ember", "fern", "flint", "fox", "frost", "glen", "grey", "hazel", "heron", "holly",
    "iris", "ivy", "jasper", "juniper", "kestrel", "lark", "lichen", "linden", "lunar", "maple",
    "marsh", "meadow", "mist", "moss", "nettle", "night", "oak", "olive", "opal", "otter",
    "pebble", "pine", "plum", "quill", "rain", "raven", "reed", "robin", "rowan", "rust", "sable",
    "sage", "salt", "sedge", "silver", "slate", "snow", "sparrow", "storm", "tansy", "thistle",
    "thorn", "tide", "umber", "vale", "violet", "willow", "winter", "wren",
];
/// Second halves of names.
pub(super) const SECOND: &[&str] = &[
    "bark", "bell", "bird", "bloom", "bough", "by", "cliff", "crest", "dale", "fall", "feather",
    "field", "fire", "glow", "grove", "hare", "haven", "hill", "hollow", "lake", "lamp", "leaf",
    "light", "mere", "moon", "path", "pool", "ridge", "river", "road", "root", "shade", "shore",
    "song", "spring", "star", "step", "stone", "stream", "tail", "trail", "walker", "water",
    "wave", "whistle", "wick", "wind", "wing", "wood", "writer",
];
/// Names in full: given.
pub(super) const GIVEN: &[&str] = &[
    "Ada", "Agnes", "Albert", "Alma", "Amos", "Anton", "Beatrix", "Bela", "Clara", "Conrad",
    "Cora", "Daphne", "Edgar", "Edith", "Elias", "Emil", "Esther", "Felix", "Flora", "Georg",
    "Greta", "Harriet", "Hugo", "Ida", "Ines", "Jonas", "Josef", "Klara", "Lars", "Lena", "Leo",
    "Lydia", "Mabel", "Marta", "Mira", "Nora", "Olga", "Oskar", "Paula", "Rosa", "Rufus", "Selma",
    "Stella", "Theo", "Thora", "Viola", "Walter", "Wilma",
];
/// Communities.
pub(super) const COMMUNITIES: &[(&str, &str)] = &[
    ("slow_readers", "Readers of long books"),
    ("hill_walkers", "Walks, maps and weather"),
    ("night_kitchen", "What we cook after ten"),
    ("tide_tables", "People who live by the sea"),
    ("old_machines", "Mending what others throw away"),
    ("window_boxes", "Small gardens"),
    ("letter_writers", "Letters, paper and ink"),
];
/// Subjects of entries.
pub(super) const SUBJECTS: &[&str] = &[
    "A page I keep going back to",
    "After the rain",
    "An evening by the stove",
    "Copied out by hand",
    "First frost",
    "From the train window",
    "Halfway through",
    "I had forgotten this",
    "In praise of doing nothing",
    "Long walk, short entry",
    "Morning pages",
    "Night thoughts",
    "No plans",
    "Notes in the margin",
    "On moving house",
    "On patience",
    "Out early",
    "Reading aloud",
    "Small victories",
    "Something my grandmother read to me",
    "Sunday",
    "The last warm day",
    "The path along the river",
    "The shelf by the door",
    "This made me laugh",
    "Three chairs",
    "To whoever needs it today",
    "Too tired to write, so here is this",
    "What the sea does",
    "Where I was this week",
];
/// How an entry begins, in the writer's own voice.
pub(super) const OPENINGS: &[&str] = &[
    "I copied this out last night and cannot get it out of my head:",
    "For those who were not on the walk, this was read aloud at the top:",
    "A passage for the weekend.",
    "My copy falls open here by itself:",
    "Found between two old letters:",
    "This is what I was trying to say yesterday.",
    "Reading this again after years:",
    "Somebody asked what I am reading. This:",
    "No news from me. Instead:",
    "It rained all day, so I read.",
    "On the tram a stranger was reading this over my shoulder:",
];
/// How an entry ends.
pub(super) const CLOSINGS: &[&str] = &[
    "That is all for today.",
    "What are you reading?",
    "Tell me if you know it.",
    "I will write properly tomorrow.",
    "The kettle is on.",
    "More at the weekend.",
    "I wonder what it looks like to someone who reads it for the first time.",
    "Good night, all.",
    "And now to bed.",
];
/// Short remarks in comments.
pub(super) const REMARKS: &[&str] = &[
    "I needed this today. Thank you.",
    "Bookmarked.",
    "There is a lovely old edition of it in the shop by the bridge.",
    "I read it to the children last night; they want the next chapter now.",
    "It sounds quite different in translation.",
    "Where did you find it?",
    "I keep a notebook for sentences like this one.",
    "That was the page where I stopped reading, years ago. Time to go on.",
    "My tea went cold over this.",
    "Do you remember when we read it on the ferry?",
    "The commas! Look at the commas.",
    "One of those that get better each time.",
    "I am not sure I believe it, but I like it.",
    "Have you been up the hill again?",
    "I had only ever seen the last line quoted.",
    "May I copy this for my sister?",
    "Third time this week somebody quotes it. I take the hint.",
    "I had to read this at school and hated it. I was wrong.",
    "Which edition is yours?",
    "This is my favourite part too.",
    "You always find the good ones.",
    "Reading it aloud makes all the difference.",
    "I disagree, but I enjoyed it.",
    "Printed and pinned over my desk.",
    "My father used to quote this.",
    "Now I have to read the whole thing again.",
    "See you on Sunday?",
    "How is the new place?",
    "Yes. Exactly this.",
    "I laughed out loud in the library.",
    "The next page is even better.",
    "Wait till you get to the end.",
    "I never understood it that way before.",
    "Same here, and it has not stopped raining since.",
    "Lovely. More of these, please.",
    "I will lend you mine.",
];
/// Moods.
pub(super) const MOODS: &[&str] = &[
    "awake",
    "calm",
    "cheerful",
    "contemplative",
    "cosy",
    "curious",
    "drowsy",
    "grateful",
    "hopeful",
    "nostalgic",
    "quiet",
    "restless",
    "thoughtful",
];
/// Music.
pub(super) const MUSIC: &[&str] = &[
    "rain on the roof",
    "Bach, Goldberg Variations",
    "Chopin, Nocturnes",
    "Satie, Gymnopédies",
    "the neighbour's piano",
    "Dvořák, American Quartet",
    "the kettle",
    "Vivaldi, Winter",
];
/// Places.
pub(super) const PLACES: &[&str] = &[
    "at the kitchen table",
    "on the night train",
    "in the reading room",
    "by the harbour",
    "in the garden",
    "on the hill",
    "at the window",
];
/// Tags.
pub(super) const TAGS: &[&str] = &[
    "books",
    "carroll",
    "austen",
    "darwin",
    "thoreau",
    "walking",
    "weather",
    "home",
    "sea",
    "quotes",
    "slow days",
    "letters",
];
/// Lines of biographies.
pub(super) const BIOS: &[&str] = &[
    "I read more than I write.",
    "Walker, reader, mender of clocks.",
    "Lives where the tram ends.",
    "Keeps bees and a diary.",
    "Mostly quotations, sometimes thoughts.",
    "Writes letters and answers them.",
    "Here for the long threads.",
];
