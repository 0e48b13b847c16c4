package evidence

// About is the text of a join that gives each bundle (b) with each of its subjects
// (s): for those whose own tables are asked together with these.
const About = `evidence_subject s JOIN evidence_bundle b ON b.id = s.id`
