"""Material of the ordinary instructions: words with their opposite, and things with a short definition."""

ANTONYMS = """
hot | cold
big | small
fast | slow
happy | sad
early | late
light | dark
open | closed
full | empty
hard | soft
high | low
rich | poor
young | old
clean | dirty
wet | dry
strong | weak
loud | quiet
near | far
wide | narrow
thick | thin
long | short
sweet | sour
brave | cowardly
kind | cruel
easy | difficult
first | last
front | back
inside | outside
up | down
left | right
day | night
summer | winter
win | lose
buy | sell
push | pull
give | take
laugh | cry
love | hate
arrive | depart
begin | end
remember | forget
ask | answer
true | false
awake | asleep
alive | dead
tall | short
deep | shallow
heavy | light
sharp | blunt
smooth | rough
tight | loose
polite | rude
safe | dangerous
cheap | expensive
lazy | hardworking
noisy | silent
modern | ancient
public | private
success | failure
victory | defeat
friend | enemy
war | peace
north | south
east | west
increase | decrease
accept | refuse
build | destroy
float | sink
melt | freeze
question | answer
simple | complex
visible | invisible
generous | selfish
"""

MEANINGS = """
a teacher | A teacher is a person who helps others learn.
a library | A library is a place where people read and borrow books.
rain | Rain is water that falls in drops from the clouds.
a doctor | A doctor is a person who treats people who are sick.
a triangle | A triangle is a shape with three straight sides.
gravity | Gravity is the force that pulls things toward the ground.
a desert | A desert is a dry place with very little rain.
a piano | A piano is an instrument with black and white keys.
an island | An island is land with water all around it.
honey | Honey is a sweet food that bees make from flowers.
a bakery | A bakery is a shop that makes and sells bread.
a volcano | A volcano is a mountain that can throw out hot melted rock.
a pilot | A pilot is a person who flies a plane.
snow | Snow is frozen water that falls from the sky as white flakes.
a dictionary | A dictionary is a book that explains what words mean.
a shadow | A shadow is a dark shape made when something blocks light.
a hospital | A hospital is a building where sick people are treated.
a river | A river is a long stream of water that flows to the sea.
patience | Patience is staying calm while you wait.
a garden | A garden is a piece of land where plants are grown.
courage | Courage is doing the right thing even when you are afraid.
a recycling bin | A recycling bin is a box for things that can be used again.
a telescope | A telescope is a tool that makes faraway things look closer.
breakfast | Breakfast is the first meal of the day.
a forest | A forest is a large area covered with trees.
a magnet | A magnet is an object that pulls iron toward it.
a chef | A chef is a person who cooks food in a restaurant.
thunder | Thunder is the loud sound that follows lightning.
an orchestra | An orchestra is a large group of people who play music together.
a calendar | A calendar is a table of the days and months of a year.
friendship | Friendship is the bond between people who like and trust each other.
a thermometer | A thermometer is a tool that shows how hot or cold something is.
a planet | A planet is a large round body that moves around a star.
fog | Fog is a cloud that lies close to the ground.
a museum | A museum is a place that shows art or old things to visitors.
a farmer | A farmer is a person who grows crops or raises animals.
an earthquake | An earthquake is a sudden shaking of the ground.
a passport | A passport is a small book that proves who you are when you travel.
cheese | Cheese is a food made from milk.
a square | A square is a shape with four equal sides.
an umbrella | An umbrella is a cover on a stick that keeps you dry in the rain.
honesty | Honesty is telling the truth.
a novel | A novel is a long story in a book.
a bicycle | A bicycle is a vehicle with two wheels that you pedal.
a nest | A nest is a home that a bird builds for its eggs.
oxygen | Oxygen is a gas in the air that we need to breathe.
a tailor | A tailor is a person who makes and mends clothes.
a birthday | A birthday is the day each year on which you were born.
a compass | A compass is a tool that points to the north.
a lake | A lake is a large body of water with land around it.
soup | Soup is a hot liquid food made with vegetables or meat.
a kitchen | A kitchen is a room where food is cooked.
an actor | An actor is a person who plays a part in a film or play.
kindness | Kindness is being friendly and helpful to others.
a rainbow | A rainbow is an arc of colours seen in the sky after rain.
a vaccine | A vaccine is a medicine that helps the body fight a disease.
a dentist | A dentist is a person who takes care of teeth.
a violin | A violin is a small instrument with four strings and a bow.
a valley | A valley is low land between hills.
a seed | A seed is a small thing from which a plant grows.
a poem | A poem is a short text that often uses rhythm and rhyme.
a microscope | A microscope is a tool that makes tiny things look bigger.
winter | Winter is the coldest season of the year.
an ocean | An ocean is a very large area of salt water.
a neighbor | A neighbor is a person who lives near you.
ice | Ice is water that has frozen solid.
a firefighter | A firefighter is a person who puts out fires.
a pyramid | A pyramid is a shape with a flat base and sides that meet at a point.
curiosity | Curiosity is the wish to learn new things.
a bridge | A bridge is a structure that lets people cross a river or road.
a wallet | A wallet is a small case for money and cards.
an orchard | An orchard is a field of fruit trees.
a battery | A battery is a device that stores electric power.
a season | A season is one of the four parts of the year.
a circle | A circle is a round shape with no corners.
a mirror | A mirror is a piece of glass that shows your reflection.
a nurse | A nurse is a person who cares for sick people.
hail | Hail is rain that has frozen into balls of ice.
a flute | A flute is a wind instrument that you blow across.
a village | A village is a small group of homes in the country.
a mammal | A mammal is an animal that feeds its young with milk.
sleep | Sleep is the rest that the body and mind need each night.
a castle | A castle is a large old building with thick walls.
a candle | A candle is a stick of wax with a wick that gives light.
a glacier | A glacier is a huge mass of slowly moving ice.
trust | Trust is the belief that someone is honest and reliable.
a judge | A judge is a person who decides cases in a court.
a puzzle | A puzzle is a game or problem that makes you think.
a whale | A whale is a very large mammal that lives in the sea.
a suitcase | A suitcase is a case for carrying clothes when you travel.
pollen | Pollen is a fine powder made by flowers.
a stadium | A stadium is a large place where people watch sports.
an engineer | An engineer is a person who designs and builds things.
wool | Wool is the soft hair of sheep, used to make clothes.
a tunnel | A tunnel is a passage under the ground or through a hill.
a pharmacy | A pharmacy is a shop that sells medicine.
"""
