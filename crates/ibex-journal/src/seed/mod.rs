//! The demonstration's content: [`corpus`] has the words, [`plan`] decides who says them to whom, this module writes the plan into a site.

pub mod corpus;
pub mod plan;
